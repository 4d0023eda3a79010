//! Reads the Prometheus text format 0.0.4 strictly: what is out of order, twice, or not finite does not parse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One metric with all its series.
#[derive(Debug, Default, Clone)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// By the series' name and labels, as written.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// Labels of metrics, by the beginning of their names, of which a cluster shows nothing until an engine had a part in a search.
pub(crate) const LABELS_OF_NOTHING_YET: [(&str, &str); 1] = [("semel_recall_", "gallery")];

impl Family {
    /// The labels of its series, without those that make a histogram. Panics where there is none to tell.
    pub(crate) fn labels_of(&self, name: &str) -> BTreeSet<String> {
        if self.samples.is_empty() {
            let known = LABELS_OF_NOTHING_YET.iter().find(|(beginning, _)| name.starts_with(beginning));
            let (_, label) = known.unwrap_or_else(|| panic!("{name} has no series here: which labels has it?"));
            return BTreeSet::from([(*label).to_owned()]);
        }
        self.labels()
    }

    /// The labels of the series that there are.
    pub(crate) fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.keys().flat_map(|series| split(series).1.into_keys());
        names.filter(|name| name != "le").collect()
    }
}

/// Everything that one server shows.
pub(crate) struct Exposition(pub(crate) BTreeMap<String, Family>);

impl Exposition {
    /// Parses it, or says what is wrong with which line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for line in text.lines() {
            let wrong = |why: &str| Err(format!("{why}: {line}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let Some((name, help)) = rest.split_once(' ') else { return wrong("no help") };
                if !is_name(name) {
                    return wrong("not a name of ours");
                }
                current = name.to_owned();
                let family = Family { help: help.to_owned(), ..Family::default() };
                if families.insert(current.clone(), family).is_some() {
                    return wrong("twice");
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
                let family = families.get_mut(&current).filter(|family| name == current && family.kind.is_empty());
                let Some(family) = family else { return wrong("a type without its help") };
                if !["counter", "gauge", "histogram"].contains(&kind) || (kind == "counter") != name.ends_with("_total")
                {
                    return wrong("not a type for this name");
                }
                family.kind = kind.to_owned();
            } else {
                let Some((series, value)) = line.rsplit_once(' ') else { return wrong("no value") };
                let Ok(value) = value.parse::<f64>() else { return wrong("not a number") };
                let (name, labels) = split(series);
                let Some(family) = families.get_mut(&current) else { return wrong("before its help") };
                let suffix = name.strip_prefix(current.as_str());
                let belongs = match family.kind.as_str() {
                    "histogram" => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
                    _ => suffix == Some(""),
                };
                if !belongs || !value.is_finite() || !labels.keys().all(|name| is_word(name)) {
                    return wrong("not a series of the metric above");
                }
                if family.samples.insert(series.to_owned(), value).is_some() {
                    return wrong("twice");
                }
            }
        }
        for (name, family) in &families {
            if family.kind == "histogram" {
                check_histogram(name, family)?;
            }
        }
        Ok(Self(families))
    }

    /// The value of one series, as written.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("no series {series}"))
    }

    /// The value of a series that may not be there.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.values().find_map(|family| family.samples.get(series)).copied()
    }
}

/// Buckets are cumulative, and the last holds everything.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (series, value) in &family.samples {
        if let Some(bound) = split(series).1.get("le") {
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| series.clone())? };
            buckets.push((bound, *value));
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let count = family.samples.get(&format!("{name}_count")).ok_or(format!("{name} has no count"))?;
    let rising = buckets.is_sorted_by(|one, other| one.1 <= other.1);
    let whole = buckets.last().is_some_and(|(bound, value)| bound.is_infinite() && value == count);
    let summed = family.samples.contains_key(&format!("{name}_sum"));
    if rising && whole && summed { Ok(()) } else { Err(format!("{name} is no histogram: {buckets:?} of {count}")) }
}

/// `name{label="value",…}` taken apart. Values here hold no commas and no quotes.
fn split(series: &str) -> (&str, BTreeMap<String, String>) {
    let Some((name, labels)) = series.split_once('{') else { return (series, BTreeMap::new()) };
    let pairs = labels.trim_end_matches('}').split(',');
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    };
    (name, pairs.map(|text| pair(text).unwrap_or_else(|| panic!("{series}: not a label"))).collect())
}

/// Names are ours, in lower case, and in base units.
fn is_name(name: &str) -> bool {
    let scaled = ["_ms", "_milliseconds", "_micros", "_kib", "_kb", "_mb", "_percent", "_minutes"];
    let stem = name.trim_end_matches("_total");
    name.starts_with("semel_") && is_word(name) && !scaled.iter().any(|unit| stem.ends_with(unit))
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Gets a path from a server; the status code and the body.
pub(crate) async fn get(address: SocketAddr, path: &str, accept: &str) -> Result<(u16, String), std::io::Error> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Scrapes a server.
pub(crate) async fn scrape(address: SocketAddr) -> Exposition {
    let (status, body) = get(address, "/metrics", "text/plain").await.expect("it answers");
    assert_eq!(status, 200, "{body}");
    Exposition::parse(&body).unwrap_or_else(|wrong| panic!("{wrong}\n{body}"))
}

#[test]
fn what_is_wrong_does_not_parse() {
    let good = "# HELP semel_a_total Help.\n# TYPE semel_a_total counter\nsemel_a_total{x=\"1\"} 1\n";
    assert_eq!(Exposition::parse(good).expect("parses").value("semel_a_total{x=\"1\"}"), 1.0);
    let histogram = |buckets: &str| {
        format!(
            "# HELP semel_h_seconds Help.\n# TYPE semel_h_seconds histogram\n{buckets}semel_h_seconds_sum 1\nsemel_h_seconds_count 2\n"
        )
    };
    let bucket = |le: &str, value: u32| format!("semel_h_seconds_bucket{{le=\"{le}\"}} {value}\n");
    assert!(Exposition::parse(&histogram(&(bucket("1", 1) + &bucket("+Inf", 2)))).is_ok());
    let wrong = [
        good.trim_end().to_owned(),
        good.replace("counter", "gauge"),
        good.replace("semel_", "other_"),
        good.replace("_a_", "_a_ms_"),
        good.replace(" 1\n", " one\n"),
        good.to_owned() + "semel_a_total{x=\"1\"} 2\n",
        good.to_owned() + good,
        good.to_owned() + "semel_b 2\n",
        histogram(&(bucket("1", 3) + &bucket("+Inf", 2))),
        histogram(&bucket("1", 2)),
    ];
    for text in wrong {
        assert!(Exposition::parse(&text).is_err(), "{text}");
    }
}
