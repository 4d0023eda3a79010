//! What one server shows of itself.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::families::{Counts, Families, counter_stem};
use crate::instruments::{Seconds, Sizes};

type Readiness = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The metrics and the readiness of one server. A process with several servers has one for each.
pub struct Monitor {
    registry: Mutex<Registry>,
    ready: OnceLock<Readiness>,
}

impl Monitor {
    /// Shows what every process shows: its build and its use of the machine. `component` is `node` or `coordinator`.
    pub fn new(component: &'static str, version: &'static str) -> Arc<Self> {
        let monitor = Self { registry: Mutex::default(), ready: OnceLock::new() };
        let build = Info::new([("component", component), ("version", version)]);
        monitor.register("semel_build", "What runs here", build);
        let started = Instant::now();
        monitor.collect(move |families| crate::process::collect(families, started));
        Arc::new(monitor)
    }

    /// Shows a counter, whose name ends with `_total`.
    pub fn counter(&self, name: &str, help: &str, counter: &Counter) {
        self.register(counter_stem(name), help, counter.clone());
    }

    /// Shows a family of counters, whose name ends with `_total`.
    pub fn counts(&self, name: &str, help: &str, counts: &Counts) {
        self.register(counter_stem(name), help, counts.family.clone());
    }

    /// Shows a gauge.
    pub fn gauge(&self, name: &str, help: &str, gauge: &Gauge) {
        self.register(name, help, gauge.clone());
    }

    /// Shows a histogram of durations, whose name ends with `_seconds`.
    pub fn seconds(&self, name: &str, help: &str, seconds: &Seconds) {
        debug_assert!(name.ends_with("_seconds"), "{name}");
        self.register(name, help, seconds.0.clone());
    }

    /// Shows a histogram of sizes.
    pub fn sizes(&self, name: &str, help: &str, sizes: &Sizes) {
        self.register(name, help, sizes.0.clone());
    }

    /// Shows what `write` writes at each scrape. It runs on a thread that may block, and should read, not work.
    pub fn collect(&self, write: impl Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static) {
        self.registry().register_collector(Box::new(Collected(write)));
    }

    /// Sets what tells whether the server is caught up and serves; until then it is not. The reason is for people. Later calls change
    /// nothing.
    pub fn ready_when(&self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let _ = self.ready.set(Box::new(ready));
    }

    /// Whether the server is caught up and serves, or why not.
    ///
    /// # Errors
    /// The reason why not.
    pub fn ready(&self) -> Result<(), String> {
        self.ready.get().map_or_else(|| Err("it is starting".to_owned()), |ready| ready())
    }

    /// All metrics in OpenMetrics 1.0.
    pub(crate) fn open_metrics(&self) -> Result<String, fmt::Error> {
        let mut written = String::new();
        text::encode(&mut written, &self.registry())?;
        Ok(written)
    }

    /// All metrics in the Prometheus text format 0.0.4.
    pub(crate) fn prometheus_text(&self) -> Result<String, fmt::Error> {
        let mut written = String::new();
        prometheus_text::encode(&mut written, &self.registry())?;
        Ok(written)
    }

    fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry().register(name, help, metric);
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        // A collector that panicked left nothing half done in the registry.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

struct Collected<F>(F);

impl<F: Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Collected<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Families(encoder))
    }
}

impl<F> fmt::Debug for Collected<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_hold_every_kind_of_metric() {
        let monitor = Monitor::new("node", "1.2.3");
        let (counter, seconds) = (Counter::default(), Seconds::default());
        monitor.counter("semel_things_total", "Things", &counter);
        monitor.seconds("semel_work_seconds", "Work", &seconds);
        monitor.counts("semel_ends_total", "Ends", &Counts::new("end", &["good", "bad"]));
        monitor.collect(|families| families.gauges("semel_rooms", "Rooms", "state", [("free", 3), ("taken", 4)]));
        counter.inc();
        drop(seconds.start());

        let open = monitor.open_metrics().expect("strings take everything");
        assert!(open.ends_with("# EOF\n"), "{open}");
        for text in [open, monitor.prometheus_text().expect("strings take everything")] {
            for line in [
                "semel_build_info{component=\"node\",version=\"1.2.3\"} 1",
                "semel_things_total 1",
                "semel_work_seconds_count 1",
                "semel_work_seconds_bucket{le=\"+Inf\"} 1",
                "semel_ends_total{end=\"bad\"} 0",
                "semel_rooms{state=\"taken\"} 4",
            ] {
                assert!(text.lines().any(|each| each == line), "{line} is missing in\n{text}");
            }
        }
    }

    /// It once began when it was first asked for.
    #[test]
    fn the_time_since_the_start_is_counted_from_the_start() {
        let monitor = Monitor::new("node", "1.2.3");
        let made = Instant::now();
        while made.elapsed().as_millis() < 2 {
            std::hint::spin_loop();
        }
        let text = monitor.prometheus_text().expect("strings take everything");
        let uptime = text.lines().find_map(|line| line.strip_prefix("semel_process_uptime_seconds "));
        assert!(uptime.is_some_and(|seconds| seconds.parse::<f64>().is_ok_and(|seconds| seconds >= 0.002)), "{text}");
    }

    #[test]
    fn a_server_is_not_ready_before_it_says_so() {
        let monitor = Monitor::new("node", "1.2.3");
        assert!(monitor.ready().is_err());
        monitor.ready_when(|| Ok(()));
        assert_eq!(monitor.ready(), Ok(()));
    }
}
