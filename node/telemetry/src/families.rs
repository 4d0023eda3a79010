//! What is counted elsewhere, written out at each scrape.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

/// A label and its value.
type Label<'a> = [(&'static str, &'a str); 1];

/// Writes metrics whose values are read at each scrape. Names are whole: a counter's ends with `_total`.
pub struct Families<'a>(pub(crate) DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes a counter.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.describe(counter_stem(name), help, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    /// Writes a counter of seconds or another quantity that is no whole number.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn counter_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = self.describe(counter_stem(name), help, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    /// Writes a counter for each value of a label.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.describe(counter_stem(name), help, MetricType::Counter)?;
        values.into_iter().try_for_each(|(value, count)| {
            let labels: Label<'_> = [(label, value)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)
        })
    }

    /// Writes a gauge.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.describe(name, help, MetricType::Gauge)?;
        gauge(value).encode(metric)
    }

    /// Writes a gauge of a quantity that is no whole number.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn gauge_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let metric = self.describe(name, help, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    /// Writes a gauge for each value of a label.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn gauges<V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (V, u64)>,
    ) -> fmt::Result {
        let mut metric = self.describe(name, help, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(value, count)| {
            let labels: Label<'_> = [(label, value.as_ref())];
            gauge(count).encode(metric.encode_family(&labels)?)
        })
    }

    /// Writes a gauge of a quantity that is no whole number for each value of a label.
    ///
    /// # Errors
    /// If the writer refuses.
    pub fn gauges_f64<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) -> fmt::Result {
        let mut metric = self.describe(name, help, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(value, quantity)| {
            let labels: Label<'_> = [(label, value)];
            ConstGauge::new(quantity).encode(metric.encode_family(&labels)?)
        })
    }

    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &'s str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }
}

/// A gauge of a whole number; beyond 2^63 it says 2^63 - 1.
fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The encoder appends `_total` itself.
pub(crate) fn counter_stem(name: &str) -> &str {
    name.strip_suffix("_total").expect("the name of a counter ends with _total")
}

/// A counter for each of a few words that are known beforehand. All are shown from the start, so that a rate over the first
/// occurrence is not lost.
#[derive(Debug, Clone)]
pub struct Counts {
    label: &'static str,
    pub(crate) family: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Counts {
    /// Counters for `values` of `label`.
    pub fn new(label: &'static str, values: &[&'static str]) -> Self {
        let counts = Self { label, family: Family::default() };
        values.iter().for_each(|value| drop(counts.family.get_or_create(&[(label, *value)])));
        counts
    }

    /// Counts one of `value`.
    pub fn add_one(&self, value: &'static str) {
        self.family.get_or_create(&[(self.label, value)]).inc();
    }
}
