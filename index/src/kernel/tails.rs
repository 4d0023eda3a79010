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
    /// The bits that earn nothing.
    lost_by: Vec<u64>,
}

impl TailWeights {
    /// Of so many pieces, of no weight yet.
    pub(crate) fn new(pieces: usize) -> Self {
        let words = pieces * TailPiece::ZERO.0.len();
        Self { weights: vec![Bytes::ZERO; words], lost_by: vec![u64::MAX; words] }
    }

    /// Sets what a bit earns, and which bit does; once for each.
    pub(crate) fn set(&mut self, bit: usize, weight: u8, earned_by: bool) {
        self.weights[bit / 64].0[bit % 64] = weight;
        self.lost_by[bit / 64] &= !(u64::from(earned_by) << (bit % 64));
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
        let pieces = self.lost_by.len() / TailPiece::ZERO.0.len();
        &tails[row as usize * pieces..][..pieces]
    }

    fn sum_portably(&self, tail: &[TailPiece]) -> Sum {
        let words = self.weights.iter().zip(&self.lost_by).zip(tail.iter().flat_map(|piece| piece.0));
        words.fold(0, |sum, ((weights, lost_by), word)| {
            let earned = word ^ lost_by;
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
            *sum += tail_avx2(&weights.weights, &weights.lost_by, weights.tail(tails, *row));
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn add_avx512(weights: &TailWeights, tails: &[TailPiece], rows: &mut [(u32, Sum)]) {
        let (fours, rest) = rows.as_chunks_mut::<4>();
        for [a, b, c, d] in fours {
            let of_rows = [a.0, b.0, c.0, d.0];
            let mut tails_of = [&[][..]; 4];
            for (tail, row) in tails_of.iter_mut().zip(of_rows) {
                *tail = weights.tail(tails, row);
            }
            let sums = tails_avx512(&weights.weights, &weights.lost_by, tails_of);
            for ((_, sum), of_tail) in [a, b, c, d].into_iter().zip(sums) {
                *sum += of_tail;
            }
        }
        for (row, sum) in rest {
            let tail = weights.tail(tails, *row);
            *sum += tails_avx512(&weights.weights, &weights.lost_by, [tail; 1])[0];
        }
    }

    /// 32 bits at a time become bytes that choose among 32 weights.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn tail_avx2(weights: &[Bytes], lost_by: &[u64], tail: &[TailPiece]) -> Sum {
        let bit_of_byte = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let byte_of_four = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let mut sums = _mm256_setzero_si256();
        for ((weights, lost_by), word) in weights.iter().zip(lost_by).zip(tail.iter().flat_map(|piece| piece.0)) {
            let earned = word ^ lost_by;
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

    /// The bits are the mask that chooses among 64 weights. Of several tails at once, which are added up together.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn tails_avx512<const TAILS: usize>(weights: &[Bytes], lost_by: &[u64], tails: [&[TailPiece]; TAILS]) -> [Sum; 4] {
        const { assert!(TAILS <= 4) };
        let ones = _mm512_set1_epi8(1);
        let mut sums = [_mm512_setzero_si512(); 4];
        let (weights, lost_by) = (weights.as_chunks::<2>().0, lost_by.as_chunks::<2>().0);
        for (piece, (weights, lost_by)) in weights.iter().zip(lost_by).enumerate() {
            for word in 0..2 {
                // SAFETY: a line is 64 bytes, 64-byte aligned.
                let weights = unsafe { _mm512_load_si512(weights[word].0.as_ptr().cast::<__m512i>()) };
                for tail in 0..TAILS {
                    let chosen = _mm512_maskz_mov_epi8(tails[tail][piece].0[word] ^ lost_by[word], weights);
                    sums[tail] = _mm512_dpbusd_epi32(sums[tail], chosen, ones);
                }
            }
        }
        // Four neighbours of each of four tails, four times.
        let first = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
        let second = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
        let four = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
        let two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
        let one = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two));
        let mut sums = [0; 4];
        // SAFETY: the destination has 16 bytes, and need not be aligned.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast::<__m128i>(), one) };
        sums
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
                for count in 1..=9 {
                    let mut rows = vec![(1, 5); count];
                    weights.add(*path, &tails, &mut rows);
                    prop_assert_eq!(rows, vec![(1, expected + 5); count], "{:?}", path);
                }
            }
        }
    }
}
