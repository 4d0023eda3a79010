//! Binary codes and their masks: bytes as they come, words as they are compared, and the roll of their columns.
//!
//! Counting the bits that differ lives in `kernel`; what a score is lives in `compare`.

use std::fmt;
use std::sync::Arc;

use crate::template::{BinaryCodeSpec, TemplateError};

const BITS_PER_WORD: usize = u64::BITS as usize;

/// A binary code and the mask that says which of its bits are valid. Cheap to clone. `Debug` prints bits only.
#[derive(Clone, PartialEq, Eq)]
pub struct BinaryCode {
    bits: u32,
    /// The code's words, then the mask's. Bit i of the layout is bit 63 − i mod 64 of word i / 64, as in the bytes.
    words: Arc<[u64]>,
}

impl BinaryCode {
    /// Takes a code and a mask of `spec.bytes()` bytes each, the most significant bit of each byte first. A set bit of
    /// the mask marks a valid bit of the code.
    ///
    /// # Errors
    /// [`TemplateError::Spec`], [`TemplateError::Length`], [`TemplateError::PaddingBits`].
    pub fn from_bytes(spec: &BinaryCodeSpec, code: &[u8], mask: &[u8]) -> Result<Self, TemplateError> {
        spec.validate()?;
        let mut words = Vec::with_capacity(2 * code.len().div_ceil(8));
        for (field, bytes) in [("code", code), ("mask", mask)] {
            if bytes.len() as u64 != spec.bytes() {
                return Err(TemplateError::Length { field, found: bytes.len(), expected: spec.bytes() });
            }
            let padding = (spec.bytes() * 8 - spec.bits()) as u32;
            if bytes.last().is_some_and(|last| last.trailing_zeros() < padding) {
                return Err(TemplateError::PaddingBits { field, bits: spec.bits() });
            }
            words.extend(bytes.chunks(8).map(word_of));
        }
        let bits = u32::try_from(spec.bits()).expect("at most BINARY_CODE_BITS_MAX");
        Ok(Self { bits, words: Arc::from(words) })
    }

    /// The number of bits of the code, and of the mask.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The number of bits the mask declares valid.
    pub fn valid_bits(&self) -> u32 {
        self.mask_words().iter().map(|word| word.count_ones()).sum()
    }

    /// The code's bytes, as given.
    pub fn code_bytes(&self) -> Vec<u8> {
        self.bytes_of(self.code_words())
    }

    /// The mask's bytes, as given.
    pub fn mask_bytes(&self) -> Vec<u8> {
        self.bytes_of(self.mask_words())
    }

    /// The code's words, then the mask's.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    fn code_words(&self) -> &[u64] {
        self.words.split_at(self.words.len() / 2).0
    }

    fn mask_words(&self) -> &[u64] {
        self.words.split_at(self.words.len() / 2).1
    }

    fn bytes_of(&self, words: &[u64]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.truncate((self.bits as usize).div_ceil(8));
        bytes
    }

    /// This code in every shift from −`shifts_max` to `shifts_max`: for each, code words then mask words.
    ///
    /// The code must conform to `spec`.
    pub(crate) fn shifted(&self, spec: &BinaryCodeSpec) -> Vec<u64> {
        assert_eq!(u64::from(self.bits), spec.bits(), "a binary code is shifted by its own spec");
        let (columns, shifts_max) = (i64::from(spec.columns), i64::from(spec.shifts_max));
        let mut shifted = Vec::with_capacity((2 * spec.shifts_max as usize + 1) * self.words.len());
        for shift in -shifts_max..=shifts_max {
            let right = shift.rem_euclid(columns) as usize;
            for words in [self.code_words(), self.mask_words()] {
                shifted.extend(rolled(words, spec, right));
            }
        }
        shifted
    }
}

impl fmt::Debug for BinaryCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BinaryCode({} bits)", self.bits)
    }
}

/// Up to eight bytes as a word, the first the most significant, missing ones zero.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

/// Each row rolled by `columns_right` cells: what leaves on the right enters on the left.
fn rolled(words: &[u64], spec: &BinaryCodeSpec, columns_right: usize) -> Vec<u64> {
    let row_bits = spec.columns as usize * spec.bits_per_cell as usize;
    let moved = columns_right * spec.bits_per_cell as usize;
    let mut rolled = vec![0; words.len()];
    for row in 0..spec.rows as usize {
        let start = row * row_bits;
        copy_bits(words, start, &mut rolled, start + moved, row_bits - moved);
        copy_bits(words, start + row_bits - moved, &mut rolled, start, moved);
    }
    rolled
}

/// Copies `count` bits of `source` from bit `from` to bits of `target`, which are zero, from bit `to`.
fn copy_bits(source: &[u64], mut from: usize, target: &mut [u64], mut to: usize, mut count: usize) {
    while count > 0 {
        let (from_bit, to_bit) = (from % BITS_PER_WORD, to % BITS_PER_WORD);
        let step = count.min(BITS_PER_WORD - from_bit.max(to_bit));
        let keep = u64::MAX << (BITS_PER_WORD - step);
        target[to / BITS_PER_WORD] |= ((source[from / BITS_PER_WORD] << from_bit) & keep) >> to_bit;
        from += step;
        to += step;
        count -= step;
    }
}
