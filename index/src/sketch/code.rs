//! What a row is written as: a head in the words of a book, a tail of what the head leaves, and how far both are along the row.

use crate::kernel::tails::TailPiece;
use crate::sketch::book::{Book, Sums};

/// The signs of a tail count so much beside those of words. What a head leaves of a component is about 0.6 long on the average where a word's
/// sign stands for 0.63 or 0.64, by the book; with anything from 0.8 to 1 the whole errs by nearly the same.
pub(super) const TAIL_SIGN: f64 = 0.9;
/// Bits at the end of a tail for its row's measures.
const MEASURE_BITS: usize = 32;

/// Components that have a bit in the tail, the first ones: about two thirds of them, as many as fill its pieces.
pub(super) fn tail_components(dimension: usize) -> usize {
    (tail_pieces(dimension) * TailPiece::BITS - MEASURE_BITS).min(dimension)
}

/// Pieces of a tail.
pub(super) fn tail_pieces(dimension: usize) -> usize {
    (dimension * 11 / 16 + MEASURE_BITS).div_ceil(TailPiece::BITS)
}

/// The alignment of a head, in units of 2⁻⁸ of 1¼ times a book's mean alignment; to the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadAlignment(pub(super) u8);

impl HeadAlignment {
    /// A unit.
    pub(super) fn unit(book: &Book) -> f64 {
        book.alignment() * 1.25 / 256.0
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
    book: &'static Book,
    /// Words, one to a field.
    pub(super) fields: Vec<u8>,
    pub(super) tail: Vec<TailPiece>,
    pub(super) of_head: HeadAlignment,
    sums: Sums,
    largest: Vec<i32>,
    /// The signs of the head, and those of the tail, each 1 or −1.
    head_signs: Vec<i8>,
    tail_signs: Vec<i8>,
}

impl RowCode {
    pub(super) fn new(book: &'static Book, dimension: usize) -> Self {
        Self {
            book,
            fields: vec![0; book.fields(dimension)],
            tail: vec![TailPiece::ZERO; tail_pieces(dimension)],
            of_head: HeadAlignment(0),
            sums: Sums::new(book, dimension),
            largest: vec![0; book.fields(dimension)],
            head_signs: vec![1; dimension],
            tail_signs: vec![1; tail_components(dimension)],
        }
    }

    /// Codes a row of these components, of a length times 2¹⁰.
    pub(super) fn write(&mut self, components: &[i16], norm: u32) {
        self.sums.add_up(components);
        self.sums.nearest(&mut self.fields, &mut self.largest);
        let signs = self.head_signs.chunks_mut(self.book.components_per_field());
        for (word, signs) in self.fields.iter().zip(signs) {
            for (place, sign) in signs.iter_mut().enumerate() {
                *sign = if self.book.is_negative(*word, place) { -1 } else { 1 };
            }
        }
        // Casts saturate.
        self.of_head =
            HeadAlignment((self.along_head(components, norm) / HeadAlignment::unit(self.book)).round() as u8);
        // What a word's sign stands for, in the units of components.
        let stands_for = self.book.alignment() * length(norm) / (components.len() as f64).sqrt();
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
        let (all, tail) = (self.head_signs.len() as f64, self.tail_signs.len() as f64);
        ((all + tail * TAIL_SIGN * TAIL_SIGN + 2.0 * TAIL_SIGN * (2.0 * agreeing - tail)) / all).sqrt()
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
