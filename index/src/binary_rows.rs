//! Rows of binary codes and their exact comparison with a probe in every shift.
//!
//! Which rows are live, and what becomes of a score, is for the caller.

use std::fmt;

use crate::binary_code::BinaryCode;
use crate::compare::{Comparison, MaskedDifference, closest};
use crate::kernel::{self, Path};
use crate::rows::{EnrolmentOrdinal, RowBlocks};
use crate::template::BinaryCodeSpec;

/// Binary codes of one collection in the order of their ordinals. A clone shares the memory.
#[derive(Clone)]
pub(crate) struct BinaryRows {
    spec: BinaryCodeSpec,
    /// Code words, then mask words; the weight is not used.
    rows: RowBlocks<u64>,
}

impl BinaryRows {
    /// No rows yet, of a spec that is within its bounds.
    pub(crate) fn new(spec: BinaryCodeSpec) -> Self {
        let words = spec.bits().div_ceil(u64::from(u64::BITS));
        Self { spec, rows: RowBlocks::new(2 * usize::try_from(words).expect("within BINARY_CODE_BITS_MAX")) }
    }

    pub(crate) fn push(&mut self, ordinal: EnrolmentOrdinal, code: &BinaryCode) {
        assert_eq!(u64::from(code.bits()), self.spec.bits(), "a row has the spec of its rows");
        self.rows.push(ordinal, 0, 0, code.words().iter().copied());
    }

    pub(crate) fn spec(&self) -> &BinaryCodeSpec {
        &self.spec
    }

    pub(crate) fn rows(&self) -> &RowBlocks<u64> {
        &self.rows
    }

    /// Compares a row with a probe; `differences` is scratch space, reused between calls.
    pub(crate) fn compare(
        &self,
        row: usize,
        probe: &ShiftedProbe,
        differences: &mut Vec<MaskedDifference>,
    ) -> Comparison {
        let code = self.rows.cells(row);
        differences.clear();
        differences.resize(probe.words.len() / code.len(), MaskedDifference::NONE);
        kernel::masked_differences(Path::detect(), code, &probe.words, differences);
        closest(&self.spec, differences)
    }
}

impl fmt::Debug for BinaryRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BinaryRows({} of {} bits)", self.rows.len(), self.spec.bits())
    }
}

/// A probe in every shift, made once per search: shifting the probe either way equals shifting each row the other way.
pub(crate) struct ShiftedProbe {
    words: Vec<u64>,
}

impl ShiftedProbe {
    pub(crate) fn new(spec: &BinaryCodeSpec, probe: &BinaryCode) -> Self {
        Self { words: probe.shifted(spec) }
    }
}

impl fmt::Debug for ShiftedProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ShiftedProbe({} words)", self.words.len())
    }
}
