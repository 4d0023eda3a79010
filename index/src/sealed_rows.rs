//! The rows of a sealed segment: whose they are, and where their templates lie.
//!
//! In memory, or behind a [`TemplateSource`] that the shell reads for us. Both answer alike; one of them may fail.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::embedding::CanonicalEmbedding;
use crate::embedding_rows::{EmbeddingRows, ScanProbe};
use crate::ordinals::Ordinals;
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;

/// Where the templates of a sealed segment lie if they are not in memory.
pub trait TemplateSource: Send + Sync + fmt::Debug {
    /// Calls `take` with the components and the norm of every row of `rows`, in order, and with nothing else.
    ///
    /// # Errors
    /// [`TemplatesUnreadable`] if a row is not there as it was written; `take` may have been called for rows before it.
    fn read(&self, rows: Range<usize>, take: &mut dyn FnMut(&[i16], u32)) -> Result<(), TemplatesUnreadable>;
}

/// Templates of a sealed segment are not there as they were written: a search that needs them has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("templates of a sealed segment cannot be read: {reason}")]
pub struct TemplatesUnreadable {
    /// Where they are and what happened; never a template.
    pub reason: String,
}

/// Where templates lie.
#[derive(Debug, Clone)]
pub enum Templates {
    /// In memory.
    InMemory(Arc<EmbeddingRows>),
    /// Read when they are needed.
    Elsewhere(Arc<dyn TemplateSource>),
}

/// Rows that do not change any more. A clone shares them.
#[derive(Debug, Clone)]
pub(crate) struct SealedRows {
    dimension: u32,
    ordinals: Arc<Ordinals>,
    templates: Templates,
}

impl SealedRows {
    /// Rows that have just been closed.
    pub(crate) fn closed(rows: EmbeddingRows) -> Self {
        let ordinals = Ordinals::new((0..rows.len()).map(|row| rows.ordinal(row)).collect());
        Self::new(rows.dimension(), Arc::new(ordinals), Templates::InMemory(Arc::new(rows)))
    }

    /// One template to an ordinal, in their order.
    pub(crate) fn new(dimension: u32, ordinals: Arc<Ordinals>, templates: Templates) -> Self {
        if let Templates::InMemory(rows) = &templates {
            assert_eq!(rows.len(), ordinals.len(), "a template to an ordinal");
        }
        Self { dimension, ordinals, templates }
    }

    pub(crate) fn len(&self) -> usize {
        self.ordinals.len()
    }

    pub(crate) fn dimension(&self) -> u32 {
        self.dimension
    }

    pub(crate) fn ordinals(&self) -> &Ordinals {
        &self.ordinals
    }

    pub(crate) fn ordinal(&self, row: usize) -> EnrolmentOrdinal {
        self.ordinals.get(row)
    }

    /// The same rows with their templates at another place.
    pub(crate) fn with_templates(&self, templates: Templates) -> Self {
        Self::new(self.dimension, Arc::clone(&self.ordinals), templates)
    }

    /// The exact score of a row and a probe.
    pub(crate) fn score(&self, row: usize, probe: &CanonicalEmbedding) -> Result<ComparisonScore, TemplatesUnreadable> {
        match &self.templates {
            Templates::InMemory(rows) => Ok(rows.score(row, probe)),
            Templates::Elsewhere(_) => Ok(self.read(row..row + 1)?.score(0, probe)),
        }
    }

    /// Calls `found(row, score)` for those of `rows` that reach the threshold of a probe.
    pub(crate) fn score_each(
        &self,
        rows: &[u32],
        probe: &ScanProbe,
        found: &mut dyn FnMut(usize, ComparisonScore),
    ) -> Result<(), TemplatesUnreadable> {
        match &self.templates {
            Templates::InMemory(held) => held.score_each(rows, probe, found),
            Templates::Elsewhere(_) => {
                for row in rows.iter().map(|row| *row as usize) {
                    self.read(row..row + 1)?.score_each(&[0], probe, &mut |_, score| found(row, score));
                }
            }
        }
        Ok(())
    }

    /// As [`EmbeddingRows::scan`]. Templates that are not in memory are all of them read into it, so a caller asks for few
    /// rows at a time.
    pub(crate) fn scan(
        &self,
        rows: Range<usize>,
        probes: &[&ScanProbe],
        found: &mut dyn FnMut(usize, usize, ComparisonScore),
    ) -> Result<(), TemplatesUnreadable> {
        match &self.templates {
            Templates::InMemory(held) => held.scan(rows, probes, found),
            Templates::Elsewhere(_) => {
                let read = self.read(rows.clone())?;
                read.scan(0..read.len(), probes, &mut |probe, row, score| found(probe, rows.start + row, score));
            }
        }
        Ok(())
    }

    /// All templates, in memory.
    pub(crate) fn load(&self) -> Result<Arc<EmbeddingRows>, TemplatesUnreadable> {
        match &self.templates {
            Templates::InMemory(rows) => Ok(Arc::clone(rows)),
            Templates::Elsewhere(_) => self.read(0..self.len()).map(Arc::new),
        }
    }

    /// Bytes of memory of the templates.
    pub(crate) fn templates_bytes(&self) -> usize {
        match &self.templates {
            Templates::InMemory(rows) => rows.memory_bytes(),
            Templates::Elsewhere(_) => 0,
        }
    }

    /// Reads rows that are elsewhere; what comes back is numbered from 0.
    fn read(&self, range: Range<usize>) -> Result<EmbeddingRows, TemplatesUnreadable> {
        let mut rows = EmbeddingRows::new(self.dimension);
        self.visit(range.clone(), &mut |components, norm| {
            rows.push_components(self.ordinal(range.start + rows.len()), components, norm);
        })?;
        Ok(rows)
    }

    /// Calls `take` for every row of a range, wherever they lie.
    pub(crate) fn visit(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&[i16], u32),
    ) -> Result<(), TemplatesUnreadable> {
        match &self.templates {
            Templates::InMemory(rows) => range.for_each(|row| {
                let (components, norm) = rows.row(row);
                take(components, norm);
            }),
            Templates::Elsewhere(source) => {
                let (wanted, mut taken) = (range.len(), 0);
                source.read(range, &mut |components, norm| {
                    taken += 1;
                    if taken <= wanted {
                        take(components, norm);
                    }
                })?;
                if taken != wanted {
                    return Err(TemplatesUnreadable { reason: format!("{taken} rows were read of {wanted}") });
                }
            }
        }
        Ok(())
    }
}
