//! The references of one gallery, key version, slot and template spec: a growing segment and sealed ones before it.
//!
//! Which of them belong to withdrawn enrolments lives in `withdrawals`; scanning them lives in `search`.

use std::sync::Arc;

use crate::binary_rows::BinaryRows;
use crate::embedding_rows::EmbeddingRows;
use crate::ids::KeyVersion;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, Templates};
use crate::segment::Segment;
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
}

/// Either kind of template. Rows before the growing ones never change again.
#[derive(Debug, Clone)]
pub(crate) enum References {
    Embeddings { sealed: Arc<Vec<SealedSegment>>, growing: EmbeddingRows },
    BinaryCodes { sealed: Arc<Vec<BinaryRows>>, growing: BinaryRows },
}

/// Rows that do not grow, and the structure an engine built over them.
#[derive(Debug, Clone)]
pub(crate) struct SealedSegment {
    pub(crate) rows: SealedRows,
    /// None until the engine is done, or if it failed: the rows are then scanned exactly.
    pub(crate) segment: Option<Arc<dyn Segment>>,
    /// What it is kept as outside memory; `None` while it is not.
    pub(crate) stored: Option<StoredId>,
}

impl SealedSegment {
    /// Rows that wait for an engine.
    pub(crate) fn closed(rows: SealedRows) -> Self {
        Self { rows, segment: None, stored: None }
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
        Self { comparable, references }
    }

    /// Appends a reference. When the growing rows have reached `seal_at`, they are closed: returns the number of the
    /// sealed segment that now waits for an engine, if their kind has one.
    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, template: &Template, seal_at: usize) -> Option<usize> {
        match (&mut self.references, template) {
            (References::Embeddings { growing, .. }, Template::Embedding(embedding)) => {
                growing.push(ordinal, embedding);
                self.close(seal_at)
            }
            (References::BinaryCodes { sealed, growing }, Template::BinaryCode(code)) => {
                growing.push(ordinal, code);
                // No engine for these; closing them keeps the list of blocks that each snapshot copies short.
                if growing.rows().len() >= seal_at {
                    let rows = std::mem::replace(growing, BinaryRows::new(*growing.spec()));
                    Arc::make_mut(sealed).push(rows);
                }
                None
            }
            (References::Embeddings { .. }, Template::BinaryCode(_))
            | (References::BinaryCodes { .. }, Template::Embedding(_)) => {
                unreachable!("a staged template conforms to its spec")
            }
        }
    }

    /// Closes the growing rows of embeddings if there are at least so many: returns the number of the sealed segment that now waits
    /// for an engine.
    pub(crate) fn close(&mut self, rows_min: usize) -> Option<usize> {
        match &mut self.references {
            References::Embeddings { sealed, growing } if growing.len() >= rows_min => {
                let rows = std::mem::replace(growing, EmbeddingRows::new(growing.dimension()));
                Arc::make_mut(sealed).push(SealedSegment::closed(SealedRows::closed(rows)));
                Some(sealed.len() - 1)
            }
            References::Embeddings { .. } | References::BinaryCodes { .. } => None,
        }
    }

    /// The number of growing rows of embeddings.
    pub(crate) fn growing_embeddings(&self) -> usize {
        match &self.references {
            References::Embeddings { growing, .. } => growing.len(),
            References::BinaryCodes { .. } => 0,
        }
    }

    /// A sealed segment of embeddings, if there are so many.
    pub(crate) fn sealed_segment(&self, number: usize) -> Option<&SealedSegment> {
        match &self.references {
            References::Embeddings { sealed, .. } => sealed.get(number),
            References::BinaryCodes { .. } => None,
        }
    }

    /// Puts what an engine built in the place of an exact scan, or of what it built before.
    pub(crate) fn put_segment(&mut self, number: usize, segment: Arc<dyn Segment>) {
        self.sealed_mut(number).segment = Some(segment);
    }

    /// Notes what a segment is kept as, and where its templates are to be read from, if not from where they are.
    pub(crate) fn put_stored(&mut self, number: usize, stored: StoredId, templates: Option<Templates>) {
        let sealed = self.sealed_mut(number);
        sealed.stored = Some(stored);
        if let Some(templates) = templates {
            sealed.rows = sealed.rows.with_templates(templates);
        }
    }

    fn sealed_mut(&mut self, number: usize) -> &mut SealedSegment {
        match &mut self.references {
            References::Embeddings { sealed, .. } => &mut Arc::make_mut(sealed)[number],
            References::BinaryCodes { .. } => unreachable!("binary codes have no engine"),
        }
    }
}
