//! A sealed segment over a FAISS index: the cuts it measured, and how it proposes by them.
//!
//! It never scores: what it proposes is compared exactly by the catalogue.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use semel_index::{
    BuildError, Calibration, CanonicalEmbedding, ComparisonScore, Direction, EmbeddingRows, EngineProbe, Planted,
    Planter, Proposal, ScanCost, Segment, append_unit,
};

use crate::cut::{Observation, count_cut, normal_cut, observations_needed};
use crate::engine::spread;
use crate::factory::{Coverage, Factory};
use crate::raw::{Estimate, RawError, RawIndex};

/// The shortest list asked for first. Keeping a list costs FAISS a few percent of a pass for each doubling of its length, and most
/// probes have no more than a handful of rows above the cut.
pub const PROPOSALS_FIRST_MIN: usize = 8;
/// The longest list asked for; a probe with more estimates above the cut scans the segment exactly.
pub const PROPOSALS_MAX: usize = 4096;
/// The most thresholds a segment keeps cuts for.
pub const THRESHOLDS_MAX: usize = 64;

/// The same for an index that may overlook rows: it looks further for longer lists. What it misses is measured with this length.
const PROPOSALS_FIRST_PARTIAL: usize = 64;
/// How much longer the next list is. Every list costs a pass over all codes, so few passes are better than short lists.
const PROPOSALS_GROWTH: usize = 8;
/// Lists are no longer than a segment's rows divided by this: re-scoring scattered rows costs several times what a batch's
/// exact scan does for each, so more proposals would not pay.
const PROPOSALS_SHARE: usize = 16;
/// Probes handed to FAISS in one call; with the longest lists their results take 12 MiB.
const PROBES_PER_CALL: usize = 256;
/// Probes planted in each direction for an index that reports every row.
const PLANTED: usize = 2048;
/// The most probes planted in each direction for an index that does not.
const PLANTED_MAX: usize = 16_384;
/// Rows in the ruler at a time.
const ROWS_PER_MEASUREMENT: usize = 32;
/// Rows tried as probes, to see how many estimates a cut lets through.
const TRIALS: usize = 64;

/// What [`crate::FaissEngine`] hands over: a trained and filled index, and what is known of it.
pub(crate) struct Filled {
    pub(crate) index: RawIndex,
    dimension: u32,
    rows: usize,
    coverage: Coverage,
    memory_bytes: usize,
}

impl Filled {
    pub(crate) fn new(index: RawIndex, factory: &Factory, dimension: u32, rows: usize) -> Self {
        let (coverage, memory_bytes) = (factory.coverage(), factory.memory_bytes(dimension, rows));
        Self { index, dimension, rows, coverage, memory_bytes }
    }
}

/// An immutable FAISS index over a segment's rows. Only its cuts are added to, by calibration.
pub struct FaissSegment {
    engine: String,
    filled: Filled,
    cuts: RwLock<Cuts>,
}

/// By threshold.
pub(crate) type Cuts = BTreeMap<ComparisonScore, Cut>;

/// What was measured for one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    /// The budget it keeps; searches with a smaller one never use it.
    miss_budget_ppb: u32,
    rule: Rule,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// Rows estimated below `estimate_min` are no mates; the first list has `proposals_first` places.
    Propose { estimate_min: f32, proposals_first: usize },
    /// No cut keeps the budget, or so many impostors are above it that the exact scan is cheaper.
    ScanExactly,
}

impl FaissSegment {
    pub(crate) fn new(engine: String, filled: Filled) -> Self {
        Self { engine, filled, cuts: RwLock::default() }
    }

    pub(crate) fn put_cuts(&self, cuts: Cuts) {
        *self.cuts.write().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    /// The estimate a row must reach to be proposed at a threshold and within a miss budget; `None` where the segment is
    /// scanned exactly.
    pub fn estimate_min(&self, threshold: ComparisonScore, miss_budget_ppb: u32) -> Option<f32> {
        match self.rule(threshold, miss_budget_ppb) {
            Rule::Propose { estimate_min, .. } => Some(estimate_min),
            Rule::ScanExactly => None,
        }
    }

    /// The rule that keeps the budget, measured at the threshold or the nearest lower one: what reaches a threshold
    /// reaches every lower one.
    fn rule(&self, threshold: ComparisonScore, miss_budget_ppb: u32) -> Rule {
        let cuts = self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        let mut at_or_below = cuts.range(..=threshold).rev().map(|(_, cut)| cut);
        at_or_below.find(|cut| cut.miss_budget_ppb <= miss_budget_ppb).map_or(Rule::ScanExactly, |cut| cut.rule)
    }

    fn proposals_max(&self) -> usize {
        PROPOSALS_MAX.min(self.filled.rows / PROPOSALS_SHARE).max(PROPOSALS_FIRST_PARTIAL)
    }

    fn proposals_first_min(&self) -> usize {
        match self.filled.coverage {
            Coverage::Exhaustive => PROPOSALS_FIRST_MIN,
            Coverage::Partial => PROPOSALS_FIRST_PARTIAL,
        }
    }

    /// Measures one threshold.
    fn measure(&self, rows: &EmbeddingRows, threshold: ComparisonScore, miss_budget: f64) -> Result<Rule, RawError> {
        let mut lowest = f64::INFINITY;
        for direction in Direction::ALL {
            let planter = Planter::new(rows, threshold, direction);
            let cut = match self.filled.coverage {
                Coverage::Exhaustive => normal_cut(&self.estimates_by_ruler(rows, planter)?, miss_budget),
                Coverage::Partial => self.cut_by_search(rows, planter, miss_budget)?,
            };
            let Some(cut) = cut else { return Ok(Rule::ScanExactly) };
            lowest = lowest.min(cut);
        }
        // Rounded down to the next f32, as a cut may only ever be too low.
        self.rule_of(rows, (lowest as f32).next_down())
    }

    /// The estimates of planted pairs as a search of the whole index reports them. For an exhaustive index they depend
    /// on the probe and the row alone, so they are read off a ruler: a copy that holds just the rows in question.
    fn estimates_by_ruler(&self, all: &EmbeddingRows, mut planter: Planter<'_>) -> Result<Vec<Observation>, RawError> {
        let mut ruler = self.filled.index.copy()?;
        let mut observations = Vec::with_capacity(PLANTED);
        // A segment smaller than the number planted has its rows used again, with other probes.
        let rows: Vec<usize> = spread(all.len(), PLANTED).collect();
        let places: Vec<usize> = rows.iter().copied().cycle().take(PLANTED).collect();
        for places in places.chunks(ROWS_PER_MEASUREMENT) {
            let planted: Vec<Planted> = places.iter().filter_map(|row| planter.plant(*row)).collect();
            if planted.is_empty() {
                continue;
            }
            let mut numbers = Vec::new();
            planted.iter().for_each(|planted| append_unit(all.row(planted.row), &mut numbers));
            ruler.reset()?;
            ruler.add(&numbers)?;
            let lists =
                ruler.search(&numbers_of(planted.iter().map(|planted| &planted.probe)), ROWS_PER_MEASUREMENT)?;
            observations.extend(planted.iter().zip(lists).enumerate().map(|(place, (planted, list))| {
                let own = list.iter().find(|estimate| estimate.row as usize == place);
                Observation { excess: planted.excess, estimate: own.map(|estimate| estimate.cosine) }
            }));
        }
        Ok(observations)
    }

    /// The cut of an index that may overlook rows. The whole index is searched as it will be; nothing is searched if the
    /// budget is smaller than the most probes planted could show.
    fn cut_by_search(
        &self,
        rows: &EmbeddingRows,
        mut planter: Planter<'_>,
        miss_budget: f64,
    ) -> Result<Option<f64>, RawError> {
        let needed = observations_needed(miss_budget);
        if needed > PLANTED_MAX {
            return Ok(None);
        }
        let count = needed.max(PLANTED);
        let mut observations = Vec::with_capacity(count);
        let places: Vec<usize> = (0..count).map(|place| place * rows.len() / count).collect();
        for places in places.chunks(PROBES_PER_CALL) {
            let planted: Vec<Planted> = places.iter().filter_map(|row| planter.plant(*row)).collect();
            if planted.is_empty() {
                continue;
            }
            let numbers = numbers_of(planted.iter().map(|planted| &planted.probe));
            let lists = self.filled.index.search(&numbers, PROPOSALS_FIRST_PARTIAL)?;
            observations.extend(planted.iter().zip(lists).map(|(planted, list)| {
                let own = list.iter().find(|estimate| estimate.row as usize == planted.row);
                Observation { excess: planted.excess, estimate: own.map(|estimate| estimate.cosine) }
            }));
        }
        Ok(count_cut(&observations, miss_budget))
    }

    /// Tries the cut on rows of the segment, nearly all of which are impostors to each other, and fits the first list to
    /// what nine in ten of them need.
    fn rule_of(&self, rows: &EmbeddingRows, estimate_min: f32) -> Result<Rule, RawError> {
        let mut numbers = Vec::new();
        spread(rows.len(), TRIALS).for_each(|row| append_unit(rows.row(row), &mut numbers));
        let proposals_max = self.proposals_max();
        let lists = self.filled.index.search(&numbers, proposals_max)?;
        let mut needed: Vec<Option<usize>> = lists
            .iter()
            .map(|list| complete(self.filled.coverage, list, proposals_max, estimate_min).map(|rows| rows.len()))
            .collect();
        // Those that no list suffices for come last.
        needed.sort_unstable_by_key(|needed| needed.unwrap_or(usize::MAX));
        Ok(match needed[needed.len() * 9 / 10] {
            None => Rule::ScanExactly,
            Some(needed) => {
                let proposals_first = (needed + 1).next_power_of_two().clamp(self.proposals_first_min(), proposals_max);
                Rule::Propose { estimate_min, proposals_first }
            }
        })
    }

    /// Proposes for probes that fit in one call.
    fn propose_by(
        &self,
        probes: &[&CanonicalEmbedding],
        estimate_min: f32,
        first: usize,
    ) -> Result<Vec<Proposal>, RawError> {
        let mut proposals = vec![Proposal::ScanExactly; probes.len()];
        let mut open: Vec<usize> = (0..probes.len()).collect();
        let proposals_max = self.proposals_max();
        let mut k = first;
        loop {
            let numbers = numbers_of(open.iter().map(|probe| probes[*probe]));
            let lists = self.filled.index.search(&numbers, k)?;
            let mut still_open = Vec::new();
            for (probe, list) in open.iter().zip(lists) {
                match complete(self.filled.coverage, &list, k, estimate_min) {
                    Some(rows) => proposals[*probe] = Proposal::Rows(rows),
                    None => still_open.push(*probe),
                }
            }
            if still_open.is_empty() || k >= proposals_max {
                return Ok(proposals);
            }
            open = still_open;
            k = (k * PROPOSALS_GROWTH).min(proposals_max);
        }
    }
}

/// The rows of a list of `k` that reach the cut, if the list shows that no other row does: its last estimate is below.
///
/// An exhaustive index that leaves places empty shows nothing: fast-scan leaves out rows whose every table entry is the
/// lowest. What a partial index does not find is in the share of mates it was measured to miss.
fn complete(coverage: Coverage, list: &[Estimate], k: usize, estimate_min: f32) -> Option<Vec<u32>> {
    let full = match coverage {
        Coverage::Exhaustive => list.len() == k,
        Coverage::Partial => true,
    };
    let finite = list.iter().all(|estimate| estimate.cosine.is_finite());
    if !full || !finite || list.last()?.cosine >= estimate_min {
        return None;
    }
    Some(list.iter().take_while(|estimate| estimate.cosine >= estimate_min).map(|estimate| estimate.row).collect())
}

fn numbers_of<'probes>(probes: impl Iterator<Item = &'probes CanonicalEmbedding>) -> Vec<f32> {
    let mut numbers = Vec::new();
    probes.for_each(|probe| append_unit((probe.components(), probe.norm()), &mut numbers));
    numbers
}

impl Segment for FaissSegment {
    fn engine(&self) -> &str {
        &self.engine
    }

    fn memory_bytes(&self) -> usize {
        self.filled.memory_bytes
    }

    fn scan_cost(&self) -> Option<ScanCost> {
        let is_exhaustive = self.filled.coverage == Coverage::Exhaustive;
        is_exhaustive.then_some(ScanCost { bytes: self.filled.memory_bytes, lookups: None })
    }

    fn propose(&self, probes: &[&EngineProbe], threshold: ComparisonScore, miss_budget_ppb: u32) -> Vec<Proposal> {
        let dimension = self.filled.dimension;
        let probes: Vec<&CanonicalEmbedding> = probes.iter().map(|probe| probe.embedding()).collect();
        assert!(probes.iter().all(|probe| probe.dimension() == dimension), "probes have the rows' dimension");
        match self.rule(threshold, miss_budget_ppb) {
            Rule::ScanExactly => vec![Proposal::ScanExactly; probes.len()],
            Rule::Propose { estimate_min, proposals_first } => probes
                .chunks(PROBES_PER_CALL)
                .flat_map(|probes| {
                    self.propose_by(probes, estimate_min, proposals_first).unwrap_or_else(|error| {
                        tracing::error!(engine = %self.engine, %error, "segment is scanned exactly");
                        vec![Proposal::ScanExactly; probes.len()]
                    })
                })
                .collect(),
        }
    }

    /// Keeps the cuts it has, unless their budget is larger than the one asked for now.
    fn calibrate(&self, rows: &EmbeddingRows, calibration: &Calibration) -> Result<(), BuildError> {
        let references = self.filled.rows;
        let refused = |reason: String| BuildError { engine: self.engine.clone(), references, reason };
        if (rows.len(), rows.dimension()) != (references, self.filled.dimension) {
            return Err(refused("the rows are those of another segment".to_owned()));
        }
        if calibration.thresholds.len() > THRESHOLDS_MAX {
            return Err(refused(format!("takes at most {THRESHOLDS_MAX} thresholds")));
        }
        let miss_budget_ppb = calibration.miss_budget_ppb;
        let mut measured = BTreeMap::new();
        for threshold in &calibration.thresholds {
            let rule = self
                .measure(rows, *threshold, f64::from(miss_budget_ppb) * 1e-9)
                .map_err(|error| refused(error.to_string()))?;
            measured.insert(*threshold, Cut { miss_budget_ppb, rule });
        }
        let mut cuts = self.cuts.write().unwrap_or_else(PoisonError::into_inner);
        cuts.retain(|_, cut| cut.miss_budget_ppb <= miss_budget_ppb);
        cuts.append(&mut measured);
        // The lowest cuts serve every threshold above them.
        while cuts.len() > THRESHOLDS_MAX {
            cuts.pop_last();
        }
        Ok(())
    }

    /// The thresholds have cuts of their own that keep the budget.
    fn is_calibrated(&self, calibration: &Calibration) -> bool {
        let cuts = self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        let keeps = |cut: &Cut| cut.miss_budget_ppb <= calibration.miss_budget_ppb;
        calibration.thresholds.iter().all(|threshold| cuts.get(threshold).is_some_and(keeps))
    }

    fn to_bytes(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let refused = |error: RawError| {
            let (engine, references) = (self.engine.clone(), self.filled.rows);
            BuildError { engine, references, reason: error.to_string() }
        };
        let mut bytes = cuts_to_bytes(&self.cuts.read().unwrap_or_else(PoisonError::into_inner));
        bytes.extend(self.filled.index.to_bytes().map_err(refused)?);
        Ok(Some(bytes))
    }
}

const CUTS_FORMAT: u8 = 1;
const RULE_PROPOSE: u8 = 1;
const RULE_SCAN_EXACTLY: u8 = 2;
const CUT_BYTES: usize = 17;

/// Format, count, and of each cut: threshold, miss budget, rule, least estimate, first list; all little-endian.
fn cuts_to_bytes(cuts: &Cuts) -> Vec<u8> {
    let mut bytes = vec![CUTS_FORMAT, u8::try_from(cuts.len()).expect("at most THRESHOLDS_MAX")];
    for (threshold, cut) in cuts {
        let (rule, estimate_min, first) = match cut.rule {
            Rule::Propose { estimate_min, proposals_first } => (RULE_PROPOSE, estimate_min, proposals_first),
            Rule::ScanExactly => (RULE_SCAN_EXACTLY, 0.0, 0),
        };
        bytes.extend_from_slice(&threshold.micros().to_le_bytes());
        bytes.extend_from_slice(&cut.miss_budget_ppb.to_le_bytes());
        bytes.push(rule);
        bytes.extend_from_slice(&estimate_min.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(first).expect("at most PROPOSALS_MAX").to_le_bytes());
    }
    bytes
}

/// The cuts that [`cuts_to_bytes`] wrote, and what follows them; `None` if they are not understood.
pub(crate) fn cuts_from_bytes(bytes: &[u8]) -> Option<(Cuts, &[u8])> {
    let [CUTS_FORMAT, count, rest @ ..] = bytes else { return None };
    let (cuts, rest) = rest.split_at_checked(usize::from(*count) * CUT_BYTES)?;
    let (cuts, _) = cuts.as_chunks::<CUT_BYTES>();
    let cuts = cuts.iter().map(cut_from_bytes).collect::<Option<Cuts>>()?;
    (cuts.len() == usize::from(*count) && cuts.len() <= THRESHOLDS_MAX).then_some((cuts, rest))
}

fn cut_from_bytes(bytes: &[u8; CUT_BYTES]) -> Option<(ComparisonScore, Cut)> {
    let word = |from: usize| [bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]];
    let threshold = ComparisonScore::from_micros(i32::from_le_bytes(word(0)))?;
    let miss_budget_ppb = u32::from_le_bytes(word(4));
    let (estimate_min, first) = (f32::from_le_bytes(word(9)), u32::from_le_bytes(word(13)) as usize);
    let rule = match bytes[8] {
        RULE_PROPOSE if estimate_min.is_finite() && (PROPOSALS_FIRST_MIN..=PROPOSALS_MAX).contains(&first) => {
            Rule::Propose { estimate_min, proposals_first: first }
        }
        RULE_SCAN_EXACTLY => Rule::ScanExactly,
        _ => return None,
    };
    Some((threshold, Cut { miss_budget_ppb, rule }))
}

impl fmt::Debug for FaissSegment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cuts = self.cuts.read().unwrap_or_else(PoisonError::into_inner);
        formatter
            .debug_struct("FaissSegment")
            .field("engine", &self.engine)
            .field("references", &self.filled.rows)
            .field("cuts", &*cuts)
            .finish_non_exhaustive()
    }
}
