//! The references of one gallery, key version, slot and template spec: a growing segment and sealed ones before it.
//!
//! Which of them belong to withdrawn enrolments lives in `withdrawals`; scanning them lives in `search`.

use std::sync::Arc;

use crate::binary_rows::BinaryRows;
use crate::catalogue::withdrawals::Withdrawals;
use crate::embedding_rows::EmbeddingRows;
use crate::ids::KeyVersion;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, Templates};
use crate::segment::{Engine, Segment};
use crate::slot::Slot;
use crate::stored::StoredId;
use crate::template::{Template, TemplateSpec};

/// What makes references of one gallery comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparable {
    pub(crate) key_version: KeyVersion,
    pub(crate) slot: Slot,
    pub(crate) spec: TemplateSpec,
}

/// References that are comparable with each other, in the order of their ordinals.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) comparable: Comparable,
    pub(crate) references: References,
    /// References of withdrawn enrolments that no rows hold any more.
    pub(crate) reclaimed: usize,
    segments_numbered: u64,
}

/// Tells the sealed segments that a collection ever had apart. It says nothing of their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentNumber(u64);

/// Either kind of template. Rows before the growing ones never change again, but are replaced by compaction.
#[derive(Debug, Clone)]
pub(crate) enum References {
    Embeddings { sealed: Arc<Vec<SealedSegment>>, growing: EmbeddingRows },
    BinaryCodes { sealed: Arc<Vec<SealedCodes>>, growing: BinaryRows },
}

/// Rows that do not grow, and the structure an engine built over them.
#[derive(Debug, Clone)]
pub(crate) struct SealedSegment {
    pub(crate) number: SegmentNumber,
    /// At least one.
    pub(crate) rows: SealedRows,
    /// How many of them are of withdrawn enrolments.
    pub(crate) withdrawn: usize,
    /// None until the engine is done, or if it failed: the rows are then scanned exactly.
    pub(crate) segment: Option<Arc<dyn Segment>>,
    /// Which engine that was; `None` as long as the segment is.
    pub(crate) engine: Option<Arc<dyn Engine>>,
    /// What it is kept as outside memory; `None` while it is not.
    pub(crate) stored: Option<StoredId>,
}

/// Rows of binary codes that do not grow. No engine searches them, and they are not kept outside memory.
#[derive(Debug, Clone)]
pub(crate) struct SealedCodes {
    pub(crate) number: SegmentNumber,
    /// At least one.
    pub(crate) rows: BinaryRows,
    /// How many of them are of withdrawn enrolments.
    pub(crate) withdrawn: usize,
}

impl SealedSegment {
    /// Rows that wait for an engine.
    pub(crate) fn closed(number: SegmentNumber, rows: SealedRows, withdrawals: &Withdrawals) -> Self {
        let withdrawn = (0..rows.len()).filter(|row| withdrawals.contains(rows.ordinal(*row))).count();
        Self { number, rows, withdrawn, segment: None, engine: None, stored: None }
    }

    /// Whether this engine built it, under whichever of its names.
    pub(crate) fn is_built_by(&self, engine: &dyn Engine) -> bool {
        let dimension = self.rows.dimension();
        self.engine.as_ref().is_some_and(|built| built.fingerprint(dimension) == engine.fingerprint(dimension))
    }

    /// Puts what an engine built in the place of an exact scan, or of what was built before.
    pub(crate) fn put_built(&mut self, segment: Arc<dyn Segment>, engine: Arc<dyn Engine>) {
        if !self.is_built_by(&*engine) {
            // The file is of another engine.
            self.stored = None;
        }
        (self.segment, self.engine) = (Some(segment), Some(engine));
    }

    /// Notes what it is kept as, and where its templates are to be read from, if not from where they are.
    pub(crate) fn put_stored(&mut self, stored: StoredId, templates: Option<Templates>) {
        self.stored = Some(stored);
        if let Some(templates) = templates {
            self.rows = self.rows.with_templates(templates);
        }
    }
}

impl SealedCodes {
    pub(crate) fn closed(number: SegmentNumber, rows: BinaryRows, withdrawals: &Withdrawals) -> Self {
        let codes = rows.rows();
        let withdrawn = (0..codes.len()).filter(|row| withdrawals.contains(codes.ordinal(*row))).count();
        Self { number, rows, withdrawn }
    }
}

impl Collection {
    pub(crate) fn new(comparable: Comparable) -> Self {
        let references = match comparable.spec {
            TemplateSpec::Embedding { dimension } => {
                References::Embeddings { sealed: Arc::default(), growing: EmbeddingRows::new(dimension) }
            }
            TemplateSpec::BinaryCode(spec) => {
                References::BinaryCodes { sealed: Arc::default(), growing: BinaryRows::new(spec) }
            }
        };
        Self { comparable, references, reclaimed: 0, segments_numbered: 0 }
    }

    /// A number that no segment of this collection has had.
    pub(crate) fn new_number(&mut self) -> SegmentNumber {
        self.segments_numbered += 1;
        SegmentNumber(self.segments_numbered)
    }

    /// Appends a reference to the growing rows.
    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, template: &Template) {
        match (&mut self.references, template) {
            (References::Embeddings { growing, .. }, Template::Embedding(embedding)) => {
                growing.push(ordinal, embedding);
            }
            (References::BinaryCodes { growing, .. }, Template::BinaryCode(code)) => growing.push(ordinal, code),
            (References::Embeddings { .. }, Template::BinaryCode(_))
            | (References::BinaryCodes { .. }, Template::Embedding(_)) => {
                unreachable!("a staged template conforms to its spec")
            }
        }
    }

    /// Closes the growing rows if there are at least so many: returns the number of the sealed segment, which waits for an engine if its
    /// kind has one.
    pub(crate) fn close(&mut self, rows_min: usize, withdrawals: &Withdrawals) -> Option<SegmentNumber> {
        if self.growing() < rows_min {
            return None;
        }
        let number = self.new_number();
        match &mut self.references {
            References::Embeddings { sealed, growing } => {
                let rows = std::mem::replace(growing, EmbeddingRows::new(growing.dimension()));
                let closed = SealedSegment::closed(number, SealedRows::closed(rows), withdrawals);
                Arc::make_mut(sealed).push(closed);
            }
            References::BinaryCodes { sealed, growing } => {
                // No engine for these; closing them keeps the list of blocks that each snapshot copies short.
                let rows = std::mem::replace(growing, BinaryRows::new(*growing.spec()));
                Arc::make_mut(sealed).push(SealedCodes::closed(number, rows, withdrawals));
            }
        }
        Some(number)
    }

    fn growing(&self) -> usize {
        match &self.references {
            References::Embeddings { growing, .. } => growing.len(),
            References::BinaryCodes { growing, .. } => growing.rows().len(),
        }
    }

    /// The number of growing rows of embeddings.
    pub(crate) fn growing_embeddings(&self) -> usize {
        match &self.references {
            References::Embeddings { growing, .. } => growing.len(),
            References::BinaryCodes { .. } => 0,
        }
    }

    /// The sealed segments of embeddings, in the order of their ordinals; none of binary codes.
    pub(crate) fn sealed_segments(&self) -> &[SealedSegment] {
        match &self.references {
            References::Embeddings { sealed, .. } => sealed,
            References::BinaryCodes { .. } => &[],
        }
    }

    /// A sealed segment of embeddings, unless it was replaced.
    pub(crate) fn sealed_segment(&self, number: SegmentNumber) -> Option<&SealedSegment> {
        self.sealed_segments().iter().find(|sealed| sealed.number == number)
    }

    /// The same, to be changed.
    pub(crate) fn sealed_segment_mut(&mut self, number: SegmentNumber) -> Option<&mut SealedSegment> {
        match &mut self.references {
            References::Embeddings { sealed, .. } => {
                let place = sealed.iter().position(|sealed| sealed.number == number)?;
                Some(&mut Arc::make_mut(sealed)[place])
            }
            References::BinaryCodes { .. } => None,
        }
    }

    /// Counts the withdrawal of an enrolment, if a sealed segment has its reference.
    pub(crate) fn note_withdrawn(&mut self, ordinal: EnrolmentOrdinal) {
        match &mut self.references {
            References::Embeddings { sealed, .. } => {
                let place = sealed.partition_point(|one| one.rows.ordinals().last() < Some(ordinal));
                if sealed.get(place).is_some_and(|one| one.rows.ordinals().row_of(ordinal).is_some()) {
                    Arc::make_mut(sealed)[place].withdrawn += 1;
                }
            }
            References::BinaryCodes { sealed, .. } => {
                let place = sealed.partition_point(|one| one.rows.rows().last_ordinal() < Some(ordinal));
                if sealed.get(place).is_some_and(|one| one.rows.rows().row_of(ordinal).is_some()) {
                    Arc::make_mut(sealed)[place].withdrawn += 1;
                }
            }
        }
    }

    /// Whether a row holds the reference of an enrolment.
    pub(crate) fn holds(&self, ordinal: EnrolmentOrdinal) -> bool {
        match &self.references {
            References::Embeddings { sealed, growing } => {
                let place = sealed.partition_point(|one| one.rows.ordinals().last() < Some(ordinal));
                let of_sealed = |one: &SealedSegment| one.rows.ordinals().row_of(ordinal).is_some();
                sealed.get(place).map_or_else(|| growing.rows().row_of(ordinal).is_some(), of_sealed)
            }
            References::BinaryCodes { sealed, growing } => {
                let place = sealed.partition_point(|one| one.rows.rows().last_ordinal() < Some(ordinal));
                let rows = sealed.get(place).map_or(growing, |one| &one.rows);
                rows.rows().row_of(ordinal).is_some()
            }
        }
    }
}
