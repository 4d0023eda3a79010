//! What the exact oracle says about a set: every pair compared, on all cores.

use std::collections::HashSet;
use std::thread;

use anyhow::Context as _;
use semel_index::ComparisonScore;
use semel_population::{EnrolmentRates, Oracle, Row};

use super::sets::{Set, threads};

/// How far a score of the cluster may be from the oracle's, in millionths: it rotates templates before it rounds them
/// to 16 bits. A pair nearer to the threshold than that may fall on either side.
const ROUNDING_MICROS: i32 = 100;
/// Parts of the work: enough that no thread waits long for the last.
const PARTS: u32 = 64;

/// The oracle's findings.
pub(super) struct Exact {
    pub(super) rates: EnrolmentRates,
    /// Pairs, earlier row first, whose score reaches the threshold by more than rounding.
    surely: HashSet<(Row, Row)>,
    /// Pairs that reach it but for rounding.
    perhaps: HashSet<(Row, Row)>,
    /// Pairs that reach it.
    pub(super) pairs: usize,
}

/// How the cluster's pairs differ from the oracle's, rounding aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Differences {
    pub(super) missing: usize,
    pub(super) extra: usize,
}

impl Exact {
    pub(super) fn find(set: &Set) -> anyhow::Result<Self> {
        let oracle = Oracle::from_embeddings(set.dimension, set.templates()).context("build the oracle")?;
        let threshold = set.threshold.micros();
        let lowest = ComparisonScore::from_micros(threshold - ROUNDING_MICROS).context("the threshold is in range")?;
        let ranges = oracle.ranges(PARTS);
        let found: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads())
                .map(|first| {
                    let own = ranges.iter().skip(first).step_by(threads());
                    let oracle = &oracle;
                    scope.spawn(move || {
                        own.flat_map(|range| oracle.pairs_reaching(range.clone(), lowest)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("comparing does not panic")).collect()
        });
        let above = |margin: i32| {
            let reached = found.iter().filter(move |pair| pair.score.micros() >= threshold + margin);
            reached.map(|pair| (pair.earlier, pair.later))
        };
        Ok(Self {
            rates: EnrolmentRates::count(&set.truth, above(0)),
            surely: above(ROUNDING_MICROS).collect(),
            perhaps: above(-ROUNDING_MICROS).collect(),
            pairs: above(0).count(),
        })
    }

    /// Compares with the pairs that the cluster flagged, earlier row first.
    pub(super) fn differences(&self, flagged: &HashSet<(Row, Row)>) -> Differences {
        Differences {
            missing: self.surely.difference(flagged).count(),
            extra: flagged.difference(&self.perhaps).count(),
        }
    }
}
