//! The engine: its names, what it accepts, and how it builds a segment.
//!
//! How a segment proposes is in `segment`; what FAISS is asked to do, in `raw`.

use std::sync::Arc;

use semel_index::{BuildError, Calibration, EmbeddingRows, Engine, Segment, append_unit};

use crate::factory::Factory;
use crate::raw::{self, RawError, RawIndex};
use crate::segment::{FaissSegment, Filled, cuts_from_bytes};

/// What this engine is called, and the prefix of its factory strings.
pub(crate) const NAME: &str = "faiss";

/// Rows made `f32` at a time while filling an index: 8 MiB at 512 dimensions.
const ROWS_PER_ADD: usize = 4096;

/// Why an engine cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No engine has this name.
    #[error("engine {name} is unknown, must be faiss or faiss:<factory>")]
    Name {
        /// The name asked for.
        name: String,
    },
    /// The factory string names no index type that is accepted.
    #[error(
        "faiss factory {factory:?} is not accepted, must be Flat, SQ4, SQ6, SQ8, SQfp16, SQbf16, PQ<m>[x<bits>][np], \
         PQ<m>x4fs with m up to 257, HNSW<links> or IVF<lists>,Flat"
    )]
    Factory {
        /// The string asked for.
        factory: String,
    },
    /// The embeddings cannot be split evenly into codes.
    #[error("engine {engine} needs a dimension divisible by {divisor}, found {dimension}")]
    Dimension {
        /// The engine's name.
        engine: String,
        /// The embeddings' dimension.
        dimension: u32,
        /// What must divide it.
        divisor: u32,
    },
    /// The processor lacks instructions that FAISS was compiled for.
    #[error("faiss needs a processor with {feature}")]
    Processor {
        /// The missing feature.
        feature: &'static str,
    },
}

/// Builds segments over FAISS indices of one factory string, or of the default for each dimension.
#[derive(Debug, Clone)]
pub struct FaissEngine {
    name: String,
    /// `None`: [`Factory::default_for`] the dimension at hand.
    factory: Option<Factory>,
}

impl FaissEngine {
    /// An engine for one factory string; see [`Factory`] for those accepted.
    ///
    /// # Errors
    /// [`EngineError::Factory`], [`EngineError::Processor`].
    pub fn new(factory: &str) -> Result<Self, EngineError> {
        check_processor()?;
        Ok(Self { name: format!("{NAME}:{factory}"), factory: Some(factory.parse()?) })
    }

    /// The default engine: 4-bit fast-scan codes of four numbers each, whatever the dimension.
    ///
    /// # Errors
    /// [`EngineError::Processor`].
    pub fn with_default_factory() -> Result<Self, EngineError> {
        check_processor()?;
        Ok(Self { name: NAME.to_owned(), factory: None })
    }

    /// The engine of a name: `faiss`, or `faiss:<factory>`.
    ///
    /// # Errors
    /// [`EngineError::Name`], [`EngineError::Factory`], [`EngineError::Processor`].
    pub fn parse(name: &str) -> Result<Self, EngineError> {
        match name.split_once(':') {
            None if name == NAME => Self::with_default_factory(),
            Some((NAME, factory)) => Self::new(factory),
            None | Some(_) => Err(EngineError::Name { name: name.to_owned() }),
        }
    }

    /// The factory string used for embeddings of a dimension.
    ///
    /// # Errors
    /// [`EngineError::Dimension`].
    pub fn factory_for(&self, dimension: u32) -> Result<Factory, EngineError> {
        match &self.factory {
            None => Factory::default_for(dimension),
            Some(factory) => factory.check_dimension(dimension).map(|()| factory.clone()),
        }
    }

    /// [`Engine::build`] with its own type, for those who choose this engine rather than any.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build_segment(
        &self,
        rows: Arc<EmbeddingRows>,
        calibration: &Calibration,
    ) -> Result<FaissSegment, BuildError> {
        let references = rows.len();
        let refused = |reason: String| BuildError { engine: self.name.clone(), references, reason };
        let factory = self.factory_for(rows.dimension()).map_err(|error| refused(error.to_string()))?;
        let references_min = factory.references_min();
        if references < references_min {
            return Err(refused(format!("needs {references_min} references or more")));
        }
        let filled = fill(&factory, &rows).map_err(|error| refused(error.to_string()))?;
        let segment = FaissSegment::new(format!("{NAME}:{factory}"), filled);
        segment.calibrate(&rows, calibration)?;
        Ok(segment)
    }

    /// [`Engine::restore`] with its own type.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn restore_segment(&self, dimension: u32, rows: usize, bytes: &[u8]) -> Result<FaissSegment, BuildError> {
        let refused = |reason: String| BuildError { engine: self.name.clone(), references: rows, reason };
        let factory = self.factory_for(dimension).map_err(|error| refused(error.to_string()))?;
        let (cuts, index) = cuts_from_bytes(bytes).ok_or_else(|| refused("the cuts are not understood".to_owned()))?;
        let index =
            RawIndex::from_bytes(index, dimension, rows, &factory).map_err(|error| refused(error.to_string()))?;
        let segment = FaissSegment::new(format!("{NAME}:{factory}"), Filled::new(index, &factory, dimension, rows));
        segment.put_cuts(cuts);
        Ok(segment)
    }
}

impl Engine for FaissEngine {
    fn name(&self) -> &str {
        &self.name
    }

    /// A dimension that the factory cannot split never seals: it stays exact.
    fn references_min(&self, dimension: u32) -> usize {
        self.factory_for(dimension).map_or(usize::MAX, |factory| factory.references_min())
    }

    fn build(&self, rows: Arc<EmbeddingRows>, calibration: &Calibration) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(self.build_segment(rows, calibration)?))
    }

    /// The factory string for the dimension and the version of FAISS, whose format this is.
    fn fingerprint(&self, dimension: u32) -> String {
        let factory = self.factory_for(dimension).map_or_else(|_| "none".to_owned(), |factory| factory.to_string());
        format!("{NAME}:{factory} {}", raw::version())
    }

    fn restore(&self, dimension: u32, rows: usize, bytes: &[u8]) -> Result<Box<dyn Segment>, BuildError> {
        Ok(Box::new(self.restore_segment(dimension, rows, bytes)?))
    }
}

/// Trains an index on rows spread evenly over the segment, then adds all rows in order.
pub(crate) fn fill(factory: &Factory, rows: &EmbeddingRows) -> Result<Filled, RawError> {
    let mut index = RawIndex::new(rows.dimension(), factory)?;
    let mut numbers = Vec::new();
    for row in spread(rows.len(), factory.training_references_max()) {
        append_unit(rows.row(row), &mut numbers);
    }
    index.train(&numbers)?;
    for first in (0..rows.len()).step_by(ROWS_PER_ADD) {
        numbers.clear();
        for row in first..rows.len().min(first + ROWS_PER_ADD) {
            append_unit(rows.row(row), &mut numbers);
        }
        index.add(&numbers)?;
    }
    Ok(Filled::new(index, factory, rows.dimension(), rows.len()))
}

/// Up to `count_max` of `rows` row numbers, evenly spread, ascending and distinct.
pub(crate) fn spread(rows: usize, count_max: usize) -> impl Iterator<Item = usize> {
    let count = rows.min(count_max);
    (0..count).map(move |place| place * rows / count)
}

/// FAISS is compiled for x86-64-v3 (see `.cargo/config.toml`); on a lesser processor it would die of an illegal
/// instruction.
fn check_processor() -> Result<(), EngineError> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
            ("FMA", std::arch::is_x86_feature_detected!("fma")),
            ("F16C", std::arch::is_x86_feature_detected!("f16c")),
            ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
            ("LZCNT", std::arch::is_x86_feature_detected!("lzcnt")),
            ("MOVBE", std::arch::is_x86_feature_detected!("movbe")),
        ];
        if let Some((feature, _)) = features.into_iter().find(|(_, present)| !present) {
            return Err(EngineError::Processor { feature });
        }
    }
    Ok(())
}
