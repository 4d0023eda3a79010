//! What happened, in order: always as a running digest, which two runs of one seed share, and as text where somebody reads it.

use std::collections::VecDeque;
use std::fmt::Write as _;

use crate::world::Place;

/// How much text a trace keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// None: the digest alone.
    Digest,
    /// The last so many lines.
    Last(usize),
    /// Every line.
    Whole,
}

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    detail: Detail,
    digest: u64,
    lines: VecDeque<String>,
    events: u64,
}

impl Trace {
    pub(crate) fn new(detail: Detail) -> Self {
        Self { detail, digest: FNV_OFFSET, lines: VecDeque::new(), events: 0 }
    }

    /// Notes one event: when, where, what, a number that tells it from others of its kind, and words for a reader.
    pub(crate) fn note(&mut self, now: u64, place: Place, what: &str, number: u64, words: impl FnOnce() -> String) {
        self.events += 1;
        for part in [now, place.number(), number] {
            self.take(&part.to_le_bytes());
        }
        self.take(what.as_bytes());
        let lines_max = match self.detail {
            Detail::Digest => return,
            Detail::Last(lines) => lines,
            Detail::Whole => usize::MAX,
        };
        if self.lines.len() >= lines_max {
            self.lines.pop_front();
        }
        let mut line = format!("{:>10.3} ms  {:<3} {what}", now as f64 / 1_000.0, place.to_string());
        write!(line, " {}", words()).expect("a string grows");
        self.lines.push_back(line);
    }

    /// A digest of every event so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The number of events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines kept, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// FNV-1a: fast, and nobody here attacks it.
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
