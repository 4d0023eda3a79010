//! What a few components of a head may be written as: the words of short linear codes, each a choice of signs.

use crate::kernel::sketch::Layout;

/// A binary linear code of 2ᵏ words for n neighbouring components. A field of a head is the number of the word whose signs agree with the
/// components best.
///
/// n is twice k, so a head has half a bit for each component. That is better spent than one bit for each of half of them: with 6 bits for 12,
/// the estimate from all components of 512 errs by 0.053, and that from the signs of 256 of them by 0.065.
#[derive(Debug)]
pub(super) struct Book {
    bits: usize,
    /// Component i is negative in those words whose number has an odd number of ones in common with column i.
    columns: &'static [u8],
    /// ⟨x, s⟩ of a direction x and the signs s of its words, both of length one, on the average over directions. Its square is the share of
    /// x that s keeps.
    alignment: f64,
}

/// The extended Hamming code [8, 4, 4].
static FOURS: Book =
    Book { bits: 4, columns: &[0b0001, 0b0010, 0b0100, 0b1000, 0b1011, 0b1101, 0b0111, 0b1110], alignment: 0.6306 };
/// A [12, 6, 4] code: of those that a search from random ones came to, that of the largest alignment. Any 64 directions that k-means finds for
/// 12 normal numbers keep no more. With 10 components to a word, searches in batches among 1,000,000 of 512 components take an eighth less
/// time, and those one by one, which wait for memory, up to two fifths more.
static SIXES: Book = Book { bits: 6, columns: &[1, 2, 4, 8, 16, 32, 57, 15, 62, 37, 51, 21], alignment: 0.6406 };

impl Book {
    /// The book whose words fields of this layout can name.
    pub(super) fn of(layout: Layout) -> &'static Self {
        let book = match layout {
            Layout::Fours => &FOURS,
            Layout::Sixes => &SIXES,
        };
        debug_assert_eq!(book.bits, layout.field_bits(), "a word for each value of a field");
        book
    }

    /// Components that a word stands for; the last one of a template may stand for fewer.
    pub(super) fn components_per_word(&self) -> usize {
        self.columns.len()
    }

    /// The mean alignment of directions.
    pub(super) fn alignment(&self) -> f64 {
        self.alignment
    }

    /// Words.
    pub(super) fn words(&self) -> usize {
        1 << self.bits
    }

    /// Whether a component is negative in a word.
    pub(super) fn is_negative(&self, word: u8, component: usize) -> bool {
        (word & self.columns[component]).count_ones() % 2 == 1
    }
}

/// Of each word and each field, the field's components added up under the word's signs. Made for one template after another in the same
/// memory, and for all fields side by side, which compilers make good use of.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    book: &'static Book,
    fields: usize,
    /// Those of the first word of all fields, then those of the next one. Far from overflowing: of a canonical template's components, no more
    /// than twelve.
    sums: Vec<i32>,
}

impl Sums {
    /// Of so many words of a template.
    pub(super) fn new(book: &'static Book, fields: usize) -> Self {
        Self { book, fields, sums: vec![0; fields * book.words()] }
    }

    /// Adds up a template's components.
    pub(super) fn add_up(&mut self, components: &[i16]) {
        self.sums.fill(0);
        for (field, some) in components.chunks(self.book.columns.len()).enumerate() {
            for (component, column) in some.iter().zip(self.book.columns) {
                self.sums[usize::from(*column) * self.fields + field] = i32::from(*component);
            }
        }
        // The Walsh-Hadamard transform: what a component adds to a word changes its sign with each bit that word and column share.
        let mut half = self.fields;
        while half < self.sums.len() {
            for both in self.sums.chunks_exact_mut(2 * half) {
                let (first, second) = both.split_at_mut(half);
                for (first, second) in first.iter_mut().zip(second) {
                    (*first, *second) = (first.wrapping_add(*second), first.wrapping_sub(*second));
                }
            }
            half *= 2;
        }
    }

    /// Of each word, the sums of all fields.
    pub(super) fn of_words(&self) -> impl Iterator<Item = &[i32]> {
        self.sums.chunks_exact(self.fields)
    }

    /// Of a field, the sums of all words.
    pub(super) fn of_field(&self, field: usize) -> impl Iterator<Item = i32> {
        self.sums.iter().copied().skip(field).step_by(self.fields)
    }

    /// Of each field, the word of the largest sum, the first of equally large ones, and that sum.
    pub(super) fn nearest(&self, words: &mut [u8], largest: &mut [i32]) {
        largest.fill(i32::MIN);
        for (word, sums) in (0..).zip(self.of_words()) {
            for ((sum, largest), nearest) in sums.iter().zip(&mut *largest).zip(&mut *words) {
                *nearest = if sum > largest { word } else { *nearest };
                *largest = (*largest).max(*sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;

    use super::*;

    #[test]
    fn sums_are_those_under_the_signs_of_words_and_the_nearest_word_has_the_largest() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for book in [Layout::Fours, Layout::Sixes].map(Book::of) {
            for dimension in [1, 5, 64, 127] {
                let components: Vec<i16> = (0..dimension).map(|_| random.random_range(i16::MIN..=i16::MAX)).collect();
                let fields = components.len().div_ceil(book.components_per_word());
                let mut sums = Sums::new(book, fields);
                sums.add_up(&[1].repeat(dimension));
                sums.add_up(&components);
                let (mut words, mut largest) = (vec![0; fields], vec![0; fields]);
                sums.nearest(&mut words, &mut largest);
                for (field, some) in components.chunks(book.components_per_word()).enumerate() {
                    let by_signs = |word: usize| {
                        let sign = |place: usize| if book.is_negative(word as u8, place) { -1 } else { 1 };
                        some.iter().enumerate().map(|(place, value)| sign(place) * i32::from(*value)).sum::<i32>()
                    };
                    assert!(sums.of_words().enumerate().all(|(word, sums)| sums[field] == by_signs(word)));
                    assert_eq!(by_signs(usize::from(words[field])), largest[field]);
                    let before = 0..usize::from(words[field]);
                    assert!(before.clone().all(|word| by_signs(word) < largest[field]));
                    assert!((before.end..book.words()).all(|word| by_signs(word) <= largest[field]));
                }
            }
        }
    }

    /// Every component alone chooses signs: no two columns are alike, and none is 0.
    #[test]
    fn columns_are_distinct_and_the_mean_alignment_is_as_stated() {
        const FIELDS: usize = 20_000;
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for book in [Layout::Fours, Layout::Sixes].map(Book::of) {
            let mut columns = book.columns.to_vec();
            columns.sort_unstable();
            columns.dedup();
            assert!(columns.len() == book.columns.len() && columns[0] > 0);
            assert!(columns.iter().all(|column| usize::from(*column) < book.words()));
            let normal = |_| (1000.0 * random.sample::<f64, _>(StandardNormal)) as i16;
            let components: Vec<i16> = (0..FIELDS * book.components_per_word()).map(normal).collect();
            let mut sums = Sums::new(book, FIELDS);
            sums.add_up(&components);
            let mut largest = vec![0; FIELDS];
            sums.nearest(&mut vec![0; FIELDS], &mut largest);
            let along: i32 = largest.iter().sum();
            let squares: f64 = components.iter().map(|value| f64::from(*value).powi(2)).sum();
            let alignment = f64::from(along) / (squares * components.len() as f64).sqrt();
            assert!((alignment - book.alignment).abs() < 2e-3, "{alignment}");
        }
    }
}
