//! What a row is written as: a head in the words of a book, a tail of what the head leaves, and how far both are along the row.

use crate::kernel::sketch::FIELDS_PER_STEP;
use crate::kernel::tails::TailPiece;
use crate::sketch::book::{Book, Sums};

/// The signs of a tail count so much beside those of words. What a head leaves of a component is about 0.6 long on the average where a word's
/// sign stands for 0.63 or 0.64, by the book; with anything from 0.8 to 1 the whole errs by nearly the same.
pub(super) const TAIL_SIGN: f64 = 0.9;
/// Bits at the end of a tail for its row's measures.
const MEASURE_BITS: usize = 32;

/// The fewest words of a head that may do without the last one.
const WORDS_MANY: usize = 32;

/// Pieces of a tail.
pub(super) fn tail_pieces(dimension: usize) -> usize {
    (dimension * 11 / 16 + MEASURE_BITS).div_ceil(TailPiece::BITS)
}

/// The codes of templates of a dimension, in the words of a book: what their heads and tails stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) book: &'static Book,
    pub(super) dimension: usize,
}

impl Shape {
    /// The field that tells the alignment of a head. Its words come behind it.
    pub(super) const ALIGNMENT_FIELD: usize = 0;

    /// Words of a head: for all components, but among many words not for the last few, if their word would take a step of a scan for itself.
    pub(super) fn words(self) -> usize {
        let words = self.dimension.div_ceil(self.book.components_per_word());
        if words > WORDS_MANY && (words + 1) % FIELDS_PER_STEP == 1 { words - 1 } else { words }
    }

    /// Fields of a head's code.
    pub(super) fn fields(self) -> usize {
        Self::ALIGNMENT_FIELD + 1 + self.words()
    }

    /// Components that have a sign in the head, the first ones.
    pub(super) fn head_components(self) -> usize {
        self.dimension.min(self.words() * self.book.components_per_word())
    }

    /// Components that have a bit in the tail, the first ones: about two thirds of them, as many as fill its pieces.
    pub(super) fn tail_components(self) -> usize {
        (tail_pieces(self.dimension) * TailPiece::BITS - MEASURE_BITS).min(self.head_components())
    }

    /// |s|² of a head.
    pub(super) fn head_length_squared(self) -> f64 {
        self.head_components() as f64 / self.dimension as f64
    }

    /// ⟨x, s⟩ of a head on the average.
    pub(super) fn alignment(self) -> f64 {
        self.book.alignment() * self.head_length_squared()
    }

    /// The value of a field that tells an alignment: that of the nearest step between 1 − 2/√d and 1 + 1/√d of the mean one. Heads deviate from it
    /// by 0.4/√d of it. Those that lie above the highest step are judged a little too mildly; below the lowest are a few in a million.
    fn alignment_value(self, alignment: f64) -> u8 {
        let steps = (alignment - self.told_alignment(0)) / self.alignment_step();
        // Casts saturate.
        (steps.round() as u8).min(self.alignment_value_max())
    }

    /// The highest value of a field.
    pub(super) fn alignment_value_max(self) -> u8 {
        (self.book.words() - 1) as u8
    }

    /// The alignment that a value of a field tells.
    pub(super) fn told_alignment(self, value: u8) -> f64 {
        let least = self.alignment() * (1.0 - 2.0 / (self.dimension as f64).sqrt());
        least + f64::from(value) * self.alignment_step()
    }

    /// From one value to the next.
    pub(super) fn alignment_step(self) -> f64 {
        self.alignment() * 3.0 / (self.dimension as f64).sqrt() / self.book.words() as f64
    }
}

/// Of the whole code s of a row x: f = ⟨x, s⟩, rounded down, and √(|s|² − f²), rounded up; both in units of 2⁻¹⁵.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measures {
    pub(super) alignment: u16,
    pub(super) aside: u16,
}

impl Measures {
    pub(super) const UNIT: f64 = 1.0 / 32768.0;

    /// Of a tail.
    pub(super) fn of(tail: &[TailPiece]) -> Self {
        let word = tail.last().expect("a tail has a piece").0[1] >> 32;
        Self { alignment: word as u16, aside: (word >> 16) as u16 }
    }

    /// Puts them where the tail has no bits.
    fn keep_in(self, tail: &mut [TailPiece]) {
        let word = u64::from(self.aside) << 16 | u64::from(self.alignment);
        tail.last_mut().expect("a tail has a piece").0[1] |= word << 32;
    }
}

/// The code of one row after another, in the same memory.
#[derive(Debug, Clone)]
pub(super) struct RowCode {
    shape: Shape,
    /// Of the head's code.
    pub(super) fields: Vec<u8>,
    pub(super) tail: Vec<TailPiece>,
    sums: Sums,
    largest: Vec<i32>,
    /// The signs of the head, and those of the tail, each 1 or −1.
    head_signs: Vec<i8>,
    tail_signs: Vec<i8>,
}

impl RowCode {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            fields: vec![0; shape.fields()],
            tail: vec![TailPiece::ZERO; tail_pieces(shape.dimension)],
            sums: Sums::new(shape.book, shape.words()),
            largest: vec![0; shape.words()],
            head_signs: vec![1; shape.head_components()],
            tail_signs: vec![1; shape.tail_components()],
        }
    }

    /// Codes a row of these components, of a length times 2¹⁰.
    pub(super) fn write(&mut self, components: &[i16], norm: u32) {
        let Shape { book, .. } = self.shape;
        let words = &mut self.fields[Shape::ALIGNMENT_FIELD + 1..];
        self.sums.add_up(&components[..self.head_signs.len()]);
        self.sums.nearest(words, &mut self.largest);
        for (word, signs) in words.iter().zip(self.head_signs.chunks_mut(book.components_per_word())) {
            for (place, sign) in signs.iter_mut().enumerate() {
                *sign = if book.is_negative(*word, place) { -1 } else { 1 };
            }
        }
        let alignment = self.along_head(components, norm);
        self.fields[Shape::ALIGNMENT_FIELD] = self.shape.alignment_value(alignment);
        // What a word's sign stands for, in the units of components.
        let stands_for = book.alignment() * length(norm) / (components.len() as f64).sqrt();
        self.tail.fill(TailPiece::ZERO);
        let signs = self.head_signs.iter().zip(&mut self.tail_signs);
        for (place, (component, (head, tail))) in components.iter().zip(signs).enumerate() {
            let is_set = f64::from(*component) >= stands_for * f64::from(*head);
            *tail = if is_set { 1 } else { -1 };
            self.tail[place / TailPiece::BITS].0[place / 64 % 2] |= u64::from(is_set) << (place % 64);
        }
        let (along, length) = (self.along(components, norm), self.length());
        let measures = Measures {
            alignment: (along / Measures::UNIT).floor() as u16,
            aside: ((length * length - along * along).max(0.0).sqrt() / Measures::UNIT).ceil() as u16,
        };
        measures.keep_in(&mut self.tail);
    }

    /// ⟨q, s⟩ of a direction and the head of the row last coded.
    pub(super) fn along_head(&self, components: &[i16], norm: u32) -> f64 {
        added_up(components, &self.head_signs) / (length(norm) * (components.len() as f64).sqrt())
    }

    /// ⟨q, s⟩ of a direction and the whole code.
    pub(super) fn along(&self, components: &[i16], norm: u32) -> f64 {
        let of_tail = added_up(components, &self.tail_signs) / (length(norm) * (components.len() as f64).sqrt());
        self.along_head(components, norm) + TAIL_SIGN * of_tail
    }

    /// |s| of the whole code.
    pub(super) fn length(&self) -> f64 {
        let agreeing = self.head_signs.iter().zip(&self.tail_signs).filter(|(head, tail)| head == tail).count() as f64;
        let (head, tail) = (self.head_signs.len() as f64, self.tail_signs.len() as f64);
        let squared = head + tail * TAIL_SIGN * TAIL_SIGN + 2.0 * TAIL_SIGN * (2.0 * agreeing - tail);
        (squared / self.shape.dimension as f64).sqrt()
    }
}

/// Components under signs, of which there may be fewer.
fn added_up(components: &[i16], signs: &[i8]) -> f64 {
    // No more than 4096 components of 16 bits.
    let signed = components.iter().zip(signs).map(|(component, sign)| i32::from(*component) * i32::from(*sign));
    f64::from(signed.fold(0_i32, i32::wrapping_add))
}

/// Of a length times 2¹⁰.
fn length(norm: u32) -> f64 {
    f64::from(norm) / 1024.0
}
