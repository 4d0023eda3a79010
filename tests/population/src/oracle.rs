//! The exact oracle: every pair of rows compared, canonical template against canonical template, by the one function
//! that defines a score. It decides what a search should have found, and is deliberately without any short cut.
//!
//! It starts no threads: a caller shares [`Oracle::ranges`] among its own and merges what they return.
//! A cluster rotates embeddings before it makes them canonical, so its scores can differ from an unrotated oracle's in
//! the fifth decimal.

use std::ops::Range;

use semel_index::{CanonicalEmbedding, Comparison, ComparisonScore, Template, TemplateError, TemplateSpec, compare};

use crate::distribution::ScoreDistribution;
use crate::truth::{Kinship, Relation, Row, Truth};

/// Rows of a tile: 128 templates of 512 components are 128 KiB, well inside a core's second-level cache.
const TILE_ROWS: u32 = 128;

/// Why an oracle cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// A template is not one of the spec.
    #[error("row {row} does not conform to the template spec", row = row.0)]
    NotConforming {
        /// Its row.
        row: Row,
    },
    /// An embedding cannot be made canonical.
    #[error("row {row}", row = row.0)]
    Template {
        /// Its row.
        row: Row,
        /// Why not.
        source: TemplateError,
    },
    /// More rows than a [`Row`] can name.
    #[error("{rows} rows are more than a row number can name")]
    TooManyRows {
        /// How many there are.
        rows: usize,
    },
}

/// Two rows and their score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScoredPair {
    /// The row enrolled first.
    pub earlier: Row,
    /// The row that was searched against it.
    pub later: Row,
    /// Their score.
    pub score: ComparisonScore,
}

/// Scores of all pairs by what the two rows are to each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScoreStatistics {
    /// Pairs of mates.
    pub genuine: ScoreDistribution,
    /// Pairs of strangers.
    pub impostor: ScoreDistribution,
    /// Pairs of siblings.
    pub siblings: ScoreDistribution,
    /// Pairs of identical twins.
    pub twins: ScoreDistribution,
    /// Pairs that could not be compared.
    pub not_comparable: u64,
}

impl ScoreStatistics {
    /// Adds what another part has counted.
    pub fn merge(&mut self, other: &Self) {
        self.genuine.merge(&other.genuine);
        self.impostor.merge(&other.impostor);
        self.siblings.merge(&other.siblings);
        self.twins.merge(&other.twins);
        self.not_comparable += other.not_comparable;
    }

    fn of(&mut self, relation: Relation) -> &mut ScoreDistribution {
        match relation {
            Relation::Mates => &mut self.genuine,
            Relation::Strangers => &mut self.impostor,
            Relation::Kin(Kinship::Siblings) => &mut self.siblings,
            Relation::Kin(Kinship::Twins) => &mut self.twins,
        }
    }
}

/// The canonical templates of all rows, in order of enrolment.
#[derive(Debug, Clone)]
pub struct Oracle {
    spec: TemplateSpec,
    templates: Vec<Template>,
}

impl Oracle {
    /// Takes templates of one spec.
    pub fn new(spec: TemplateSpec, templates: Vec<Template>) -> Result<Self, OracleError> {
        if u32::try_from(templates.len()).is_err() {
            return Err(OracleError::TooManyRows { rows: templates.len() });
        }
        match (0..).zip(&templates).find(|(_, template)| !template.conforms_to(&spec)) {
            Some((row, _)) => Err(OracleError::NotConforming { row: Row(row) }),
            None => Ok(Self { spec, templates }),
        }
    }

    /// Makes embeddings canonical and takes them.
    pub fn from_embeddings<E: AsRef<[f32]>>(
        dimension: u32,
        embeddings: impl IntoIterator<Item = E>,
    ) -> Result<Self, OracleError> {
        let canonical = |(row, embedding): (u32, E)| {
            CanonicalEmbedding::from_f32(embedding.as_ref())
                .map(Template::Embedding)
                .map_err(|source| OracleError::Template { row: Row(row), source })
        };
        let templates = (0..).zip(embeddings).map(canonical).collect::<Result<_, _>>()?;
        Self::new(TemplateSpec::Embedding { dimension }, templates)
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        u32::try_from(self.templates.len()).expect("checked when the oracle was built")
    }

    /// Cuts the later rows into at most `parts` ranges of about the same number of pairs.
    pub fn ranges(&self, parts: u32) -> Vec<Range<u32>> {
        let rows = self.rows();
        // The rows before a share s of all pairs are about √s of all rows.
        let edge = |part: u32| (f64::from(rows) * (f64::from(part) / f64::from(parts)).sqrt()).round() as u32;
        (0..parts).map(|part| edge(part)..edge(part + 1)).filter(|range| !range.is_empty()).collect()
    }

    /// Each pair whose later row is in the range and whose score reaches the threshold, by later and then earlier row.
    /// Over all ranges: what enrolling the rows one by one must flag.
    pub fn pairs_reaching(&self, later: Range<u32>, threshold: ComparisonScore) -> Vec<ScoredPair> {
        let mut pairs = Vec::new();
        self.for_each_pair(later, |earlier, later, comparison| match comparison {
            Comparison::Score(score) if score >= threshold => pairs.push(ScoredPair { earlier, later, score }),
            Comparison::Score(_) | Comparison::NotComparable => {}
        });
        pairs.sort_unstable_by_key(|pair| (pair.later, pair.earlier));
        pairs
    }

    /// The scores of each pair whose later row is in the range. The truth has the oracle's rows.
    pub fn statistics(&self, later: Range<u32>, truth: &Truth) -> ScoreStatistics {
        assert_eq!(truth.len(), self.templates.len(), "the truth is about other rows");
        let mut statistics = ScoreStatistics::default();
        self.for_each_pair(later, |earlier, later, comparison| match comparison {
            Comparison::Score(score) => statistics.of(truth.relation(earlier, later)).record(score),
            Comparison::NotComparable => statistics.not_comparable += 1,
        });
        statistics
    }

    /// Every pair whose later row is in the range, tile by tile so that templates are read from the cache.
    fn for_each_pair(&self, later: Range<u32>, mut visit: impl FnMut(Row, Row, Comparison)) {
        assert!(later.end <= self.rows(), "the oracle has {} rows", self.rows());
        for later_tile in tiles(later) {
            for earlier_tile in tiles(0..later_tile.end) {
                for later in later_tile.clone() {
                    for earlier in earlier_tile.start..earlier_tile.end.min(later) {
                        let (a, b) = (&self.templates[earlier as usize], &self.templates[later as usize]);
                        visit(Row(earlier), Row(later), compare(&self.spec, a, b));
                    }
                }
            }
        }
    }
}

fn tiles(rows: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let end = rows.end;
    rows.step_by(TILE_ROWS as usize).map(move |start| start..end.min(start.saturating_add(TILE_ROWS)))
}
