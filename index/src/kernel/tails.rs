//! Sums of weights that the bits of a code earn, one code at a time: what the `sketch` engine adds for the few rows that it looks at further.

use super::Path;
use super::sketch::Bytes;

/// A piece of a tail: bits, the first one lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct TailPiece(pub(crate) [u64; 2]);

impl TailPiece {
    pub(crate) const BITS: usize = 128;
    pub(crate) const ZERO: Self = Self([0; 2]);
}

/// The heaviest tail there may be, of [`super::sketch::FIELDS_MAX`] times as many bits as a table has entries, is far from overflowing.
type Sum = u32;

/// What the bits of a tail earn: each the weight of its place, where it is the bit that earns it.
#[derive(Debug, Clone)]
pub(crate) struct TailWeights {
    /// A byte for each bit; those of no meaning have no weight.
    weights: Vec<Bytes>,
    earned_by: Vec<u64>,
}

impl TailWeights {
    /// Of so many pieces, of no weight yet.
    pub(crate) fn new(pieces: usize) -> Self {
        let words = pieces * TailPiece::ZERO.0.len();
        Self { weights: vec![Bytes::ZERO; words], earned_by: vec![0; words] }
    }

    /// Sets what a bit earns, and which bit does; once for each.
    pub(crate) fn set(&mut self, bit: usize, weight: u8, earned_by: bool) {
        self.weights[bit / 64].0[bit % 64] = weight;
        self.earned_by[bit / 64] |= u64::from(earned_by) << (bit % 64);
    }

    /// Adds what rows' tails earn to their sums. `tails` has those of all rows, of equally many pieces each.
    pub(crate) fn add(&self, path: Path, tails: &[TailPiece], rows: &mut [(u32, Sum)]) {
        match path {
            Path::Portable => {
                for (row, sum) in rows {
                    *sum += self.sum_portably(self.tail(tails, *row));
                }
            }
            // SAFETY: `Path::detect` and `Path::available` give this path only where the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { x86::add_avx2(self, tails, rows) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => unsafe { x86::add_avx512(self, tails, rows) },
        }
    }

    #[inline]
    fn tail<'a>(&self, tails: &'a [TailPiece], row: u32) -> &'a [TailPiece] {
        let pieces = self.earned_by.len() / TailPiece::ZERO.0.len();
        &tails[row as usize * pieces..][..pieces]
    }

    fn sum_portably(&self, tail: &[TailPiece]) -> Sum {
        let words = self.weights.iter().zip(&self.earned_by).zip(tail.iter().flat_map(|piece| piece.0));
        words.fold(0, |sum, ((weights, earned_by), word)| {
            let earned = !(word ^ earned_by);
            let bit = |(bit, weight): (usize, &u8)| Sum::from(*weight) * (earned >> bit & 1) as Sum;
            sum + weights.0.iter().enumerate().map(bit).sum::<Sum>()
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Sum, TailPiece, TailWeights};
    use crate::kernel::sketch::Bytes;

    #[target_feature(enable = "avx2")]
    pub(super) fn add_avx2(weights: &TailWeights, tails: &[TailPiece], rows: &mut [(u32, Sum)]) {
        for (row, sum) in rows {
            *sum += tail_avx2(&weights.weights, &weights.earned_by, weights.tail(tails, *row));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add_avx512(weights: &TailWeights, tails: &[TailPiece], rows: &mut [(u32, Sum)]) {
        let (lines, earned_by) = (weights.weights.as_chunks().0, weights.earned_by.as_chunks().0);
        for (row, sum) in rows {
            *sum += tail_avx512(lines, earned_by, weights.tail(tails, *row));
        }
    }

    /// 32 bits at a time become bytes that choose among 32 weights.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tail_avx2(weights: &[Bytes], earned_by: &[u64], tail: &[TailPiece]) -> Sum {
        let bit_of_byte = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let byte_of_four = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let mut sums = _mm256_setzero_si256();
        for ((weights, earned_by), word) in weights.iter().zip(earned_by).zip(tail.iter().flat_map(|piece| piece.0)) {
            let earned = !(word ^ earned_by);
            for (half, weights) in weights.0.as_chunks::<32>().0.iter().enumerate() {
                let bits = _mm256_set1_epi32(((earned >> (32 * half)) as u32).cast_signed());
                let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, byte_of_four), bit_of_byte);
                // SAFETY: half a line is 32 bytes, and at 0 or 32 bytes of a 64-byte aligned line it is 32-byte aligned.
                let weights = unsafe { _mm256_load_si256(weights.as_ptr().cast::<__m256i>()) };
                let chosen = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit_of_byte), weights);
                sums = _mm256_add_epi64(sums, _mm256_sad_epu8(chosen, _mm256_setzero_si256()));
            }
        }
        let [a, b, c, d] = [
            _mm256_extract_epi64::<0>(sums),
            _mm256_extract_epi64::<1>(sums),
            _mm256_extract_epi64::<2>(sums),
            _mm256_extract_epi64::<3>(sums),
        ];
        (a + b + c + d) as Sum
    }

    /// The bits are the mask that chooses among 64 weights.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn tail_avx512(weights: &[[Bytes; 2]], earned_by: &[[u64; 2]], tail: &[TailPiece]) -> Sum {
        let mut sums = [_mm512_setzero_si512(); 2];
        for ((weights, earned_by), piece) in weights.iter().zip(earned_by).zip(tail) {
            for word in 0..2 {
                // SAFETY: a line is 64 bytes, 64-byte aligned.
                let weights = unsafe { _mm512_load_si512(weights[word].0.as_ptr().cast::<__m512i>()) };
                let chosen = _mm512_maskz_mov_epi8(!(piece.0[word] ^ earned_by[word]), weights);
                sums[word] = _mm512_add_epi64(sums[word], _mm512_sad_epu8(chosen, _mm512_setzero_si512()));
            }
        }
        _mm512_reduce_add_epi64(_mm512_add_epi64(sums[0], sums[1])) as Sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_adds_up_what_a_tail_earns(
            bits in prop::collection::vec((any::<u8>(), any::<bool>(), any::<bool>()), 1..3000),
            beyond in any::<u64>(),
        ) {
            let pieces = bits.len().div_ceil(TailPiece::BITS);
            let mut weights = TailWeights::new(pieces);
            // Bits beyond the last of a weight are anything.
            let mut tail = vec![TailPiece([beyond; 2]); pieces];
            for (place, (weight, earned_by, bit)) in bits.iter().enumerate() {
                weights.set(place, *weight, *earned_by);
                let word = &mut tail[place / TailPiece::BITS].0[place / 64 % 2];
                *word = *word & !(1 << (place % 64)) | u64::from(*bit) << (place % 64);
            }
            let earned = bits.iter().filter(|(_, earned_by, bit)| earned_by == bit);
            let expected = earned.map(|(weight, _, _)| Sum::from(*weight)).sum::<Sum>();
            // The row before it has a tail of its own.
            let tails = [vec![TailPiece([u64::MAX; 2]); pieces], tail].concat();
            for path in Path::available() {
                let mut rows = [(1, 5)];
                weights.add(*path, &tails, &mut rows);
                prop_assert_eq!(rows[0], (1, expected + 5), "{:?}", path);
            }
        }
    }
}
