//! FAISS as it is: one index over all rows, its best rows taken at their word. No cut, no re-scoring, no catalogue.
//!
//! Nothing is decided by it. It is the figure that benchmarks print beside the catalogue's, measured in the same process.

use semel_index::{BuildError, CanonicalEmbedding, EmbeddingRows, append_unit};

use crate::engine::{NAME, fill};
use crate::factory::Factory;
use crate::raw::RawIndex;

/// An index without anything around it.
#[derive(Debug)]
pub struct PlainIndex {
    name: String,
    index: RawIndex,
    references: usize,
}

/// Probes as FAISS reads them.
pub struct PlainProbes(Vec<f32>);

impl PlainIndex {
    /// Trains an index of this factory on the rows, as [`crate::FaissEngine`] does, and fills it with all of them.
    ///
    /// # Errors
    /// What FAISS, or a length check before it, refused.
    pub fn build(factory: &Factory, rows: &EmbeddingRows) -> Result<Self, BuildError> {
        let (name, references) = (format!("{NAME}:{factory}"), rows.len());
        match fill(factory, rows) {
            Ok(filled) => Ok(Self { name, index: filled.index, references }),
            Err(error) => Err(BuildError { engine: name, references, reason: error.to_string() }),
        }
    }

    /// The number of rows.
    pub fn references(&self) -> usize {
        self.references
    }

    /// Searches for the `k` best rows of each probe and returns all their numbers, probe by probe; −1 where FAISS left a
    /// place empty.
    ///
    /// # Errors
    /// What FAISS, or a length check before it, refused.
    pub fn search(&self, probes: &PlainProbes, k: usize) -> Result<Vec<i64>, BuildError> {
        self.index.search_plainly(&probes.0, k).map(|(_, labels)| labels).map_err(|error| BuildError {
            engine: self.name.clone(),
            references: self.references,
            reason: error.to_string(),
        })
    }
}

impl PlainProbes {
    /// Unit embeddings of `f32`, one after another.
    pub fn new<'probes>(probes: impl IntoIterator<Item = &'probes CanonicalEmbedding>) -> Self {
        let mut numbers = Vec::new();
        probes.into_iter().for_each(|probe| append_unit((probe.components(), probe.norm()), &mut numbers));
        Self(numbers)
    }
}
