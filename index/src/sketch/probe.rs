//! A probe as the codes of segments are compared with it: tables of its components, and the line that a row must reach.

use std::f64::consts::SQRT_2;
use std::fmt;

use crate::embedding::CanonicalEmbedding;
use crate::kernel::Path;
use crate::kernel::sketch::{Averages, Bytes, ENTRY_MAX, FIRST_ENTRY_MAX, Layout};
use crate::kernel::tails::{TailPiece, TailWeights};
use crate::score::ComparisonScore;
use crate::sketch::book::{Book, Sums};
use crate::sketch::code::{Measures, Shape, TAIL_SIGN, tail_pieces};

/// What sums of table entries leave out of account at the edge of a threshold: rounding of the canonical templates and of `f64`.
const COSINE_NOISE: f64 = 4e-6;
/// Fractional bits of what a unit of a component adds to an entry of a table. The largest entry times 2²⁶ fits 32 bits.
const SCALE_BITS: u32 = 26;
/// A unit of a head's sum, in those of a whole code's. A bit of a tail earns 2 · 0.9 · 15.5 units of the head at most, 223 of these.
const WHOLE_UNITS: u32 = 8;

/// A probe as what the words of heads and the bits of tails earn.
///
/// An entry of a table is what a word's signs make of the probe's components, above the least that any word makes of them, in units that let
/// the largest be [`ENTRY_MAX`]. A bit of a tail that agrees with the sign of its component earns twice what it adds to ⟨q, s⟩. So ⟨q, s⟩·√d ≈
/// unit · (sum − the sum where ⟨q, s⟩ is 0).
///
/// What alignments earn depends on the line (see [`Lines`]), and is left open here.
pub(crate) struct SketchProbe {
    layout: Layout,
    tables: Vec<Bytes>,
    tail: TailWeights,
    dimension: f64,
    /// ⟨q, s⟩·√d of a unit of a head's sum.
    unit: f64,
    /// Of heads' sums.
    averages: Averages,
    /// The variance of ⟨q, s⟩ that the rounding of entries and of averages adds.
    rounding: f64,
    head: Zero,
    whole: Zero,
}

/// Of sums of heads, or of whole codes.
#[derive(Debug, Clone, Copy)]
struct Zero {
    /// The sum where ⟨q, s⟩ is 0.
    at: f64,
    /// How far rounding takes the sum of a code that agrees with the probe everywhere below what it stands for, at most.
    rounded_away: f64,
}

/// What rows are judged by: their heads first, then whole codes.
///
/// Heads of a large alignment must reach more than others, so alignments earn what they are short of the largest: what is asked of all heads is
/// then the same.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    /// What the fields of heads earn.
    pub(super) tables: Vec<Bytes>,
    /// The byte that a head must reach.
    pub(super) least: u8,
    /// What each alignment earns.
    of_alignments: Vec<u8>,
    levels: u32,
    whole: WholeLine,
}

impl Lines {
    /// The sum of what a head's words earn, and rounding adds.
    pub(super) fn sum_of_words(&self, byte: u32, alignment: u8) -> u32 {
        // The alignment's share has been added up in the byte.
        (byte << self.levels) - u32::from(self.of_alignments[usize::from(alignment)])
    }

    /// Whether the sum of a whole code reaches the line.
    pub(super) fn are_reached_by(&self, sum: u32, measures: Measures) -> bool {
        self.whole.is_reached_by(sum, measures)
    }
}

/// The least sum of a whole code, as a function of its row's measures.
#[derive(Debug, Clone, Copy)]
struct WholeLine {
    at: f64,
    per_alignment: f64,
    /// The square of how far below: this much for each unit of the aside's square, and this much always.
    per_aside_squared: f64,
    rounding: f64,
}

impl WholeLine {
    /// Whether a sum reaches the line. The same on every processor: each step is rounded as IEEE 754 has it.
    fn is_reached_by(self, sum: u32, Measures { alignment, aside }: Measures) -> bool {
        let (alignment, aside) = (f64::from(alignment) * Measures::UNIT, f64::from(aside) * Measures::UNIT);
        let below = self.at + self.per_alignment * alignment - f64::from(sum);
        below <= 0.0 || below * below <= self.per_aside_squared * aside * aside + self.rounding
    }
}

impl SketchProbe {
    pub(crate) fn new(probe: &CanonicalEmbedding) -> Self {
        Self::of(Layout::of(Path::detect()), probe)
    }

    /// For codes of this layout.
    pub(super) fn of(layout: Layout, probe: &CanonicalEmbedding) -> Self {
        let components = probe.components();
        let shape = Shape { book: Book::of(layout), dimension: components.len() };
        let length = f64::from(probe.norm()) / 1024.0;
        let mut sums = Sums::new(shape.book, shape.words());
        sums.add_up(&components[..shape.head_components()]);
        let (mut least, mut most) = (vec![i32::MAX; shape.words()], vec![i32::MIN; shape.words()]);
        for sums in sums.of_words() {
            least.iter_mut().zip(sums).for_each(|(least, sum)| *least = (*least).min(*sum));
            most.iter_mut().zip(sums).for_each(|(most, sum)| *most = (*most).max(*sum));
        }
        // Of a canonical template some component is not 0.
        let largest = least.iter().zip(&most).map(|(least, most)| most - least).max().unwrap_or(0).max(1);
        let scale = (u32::from(ENTRY_MAX) << SCALE_BITS) / largest.unsigned_abs();
        // The product is no more than the largest entry times 2²⁶.
        let entry = |sum: i32, least: i32| {
            let above = sum.wrapping_sub(least).cast_unsigned();
            (above.wrapping_mul(scale).wrapping_add(1 << (SCALE_BITS - 1)) >> SCALE_BITS) as u8
        };
        let mut tables = vec![Bytes::ZERO; layout.table_lines(shape.fields())];
        for (word, least) in least.iter().enumerate() {
            let entries = layout.table(&mut tables, Shape::ALIGNMENT_FIELD + 1 + word).iter_mut();
            entries.zip(sums.of_field(word)).for_each(|(into, sum)| *into = entry(sum, *least));
        }
        let (mut at, mut rounded_away) = (0.0, 0.0);
        let per_component = f64::from(scale) / f64::from(1_u32 << SCALE_BITS);
        for (least, most) in least.iter().zip(&most) {
            at -= f64::from(*least) * per_component;
            rounded_away += f64::from(most - least) * per_component - f64::from(entry(*most, *least));
        }
        let averages = Averages::of(shape.fields());
        let head = Zero { at: at + averages.mean, rounded_away: rounded_away.max(0.0) };
        let (tail, of_tail) = weigh_tail(components, shape, per_component);
        let of_head = f64::from(WHOLE_UNITS);
        let whole = Zero {
            at: head.at * of_head + of_tail.at,
            rounded_away: head.rounded_away * of_head + of_tail.rounded_away,
        };
        let (dimension, unit) = (components.len() as f64, 1.0 / (per_component * length));
        // Each entry is off by at most half a unit, evenly.
        let rounding = unit * unit * (shape.fields() as f64 / 12.0 + averages.variance) / dimension;
        Self { layout, tables, tail, dimension, unit, averages, rounding, head, whole }
    }

    /// Adds what tails earn to the sums of their rows' heads, which become those of whole codes.
    pub(super) fn add_tails(&self, path: Path, tails: &[TailPiece], rows: &mut [(u32, u32)]) {
        rows.iter_mut().for_each(|(_, sum)| *sum *= WHOLE_UNITS);
        self.tail.add(path, tails, rows);
    }

    /// The lines of which a mate at the threshold, which is above 0, falls below each in one of so many cases: see the engine.
    pub(super) fn lines(&self, threshold: ComparisonScore, deviations: f64) -> Lines {
        let threshold = threshold.as_f64() - COSINE_NOISE;
        let per_aside_squared = (1.0 - threshold * threshold) / (self.dimension - 1.0);
        let per_sum = self.dimension.sqrt() / self.unit;
        let of_head = per_sum * f64::from(WHOLE_UNITS);
        let below = (deviations * of_head) * (deviations * of_head);
        let whole = WholeLine {
            at: self.whole.at - self.whole.rounded_away,
            per_alignment: threshold * of_head,
            per_aside_squared: below * per_aside_squared,
            rounding: below * self.rounding,
        };
        let shape = Shape { book: Book::of(self.layout), dimension: self.dimension as usize };
        let (at, slope) = self.head_line(shape, threshold, deviations, per_aside_squared);
        let sum = |alignment: u8| {
            (at + slope * shape.told_alignment(alignment)) * per_sum + self.head.at - self.head.rounded_away
        };
        // Where entries cannot tell them all apart, the largest alignments are asked for less than they might be.
        let highest = shape.alignment_value_max();
        let asked = sum(highest).min(sum(0) + f64::from(FIRST_ENTRY_MAX));
        // Casts saturate.
        let earned = |alignment: u8| ((asked - sum(alignment)).round() as u8).min(FIRST_ENTRY_MAX);
        let of_alignments: Vec<u8> = (0..=highest).map(earned).collect();
        let mut tables = self.tables.clone();
        self.layout.table(&mut tables, Shape::ALIGNMENT_FIELD).copy_from_slice(&of_alignments);
        let levels = self.averages.levels;
        let least = (asked / f64::from(1_u32 << levels)).ceil() as u8;
        Lines { tables, least, of_alignments, levels, whole }
    }

    /// ⟨q, s⟩ that is asked of a head, by its alignment: what is asked at 0, and the slope. It is the tangent where the alignment is the mean one.
    fn head_line(&self, shape: Shape, threshold: f64, deviations: f64, per_aside_squared: f64) -> (f64, f64) {
        let (alignment, step) = (shape.alignment(), shape.alignment_step());
        // An alignment is off by half a step at most, evenly, and counts about once.
        let rounding = self.rounding + step * step / 12.0;
        let aside_squared = shape.head_length_squared() - alignment * alignment;
        let deviation = (per_aside_squared * aside_squared + rounding).sqrt();
        let slope = threshold + deviations * per_aside_squared * alignment / deviation;
        (threshold * alignment - deviations * deviation - slope * alignment, slope)
    }
}

/// What the bits of tails earn in units of whole codes' sums, of which a component's unit is so many of the head's.
fn weigh_tail(components: &[i16], shape: Shape, per_component: f64) -> (TailWeights, Zero) {
    let mut weights = TailWeights::new(tail_pieces(components.len()));
    let per_component = 2.0 * TAIL_SIGN * f64::from(WHOLE_UNITS) * per_component;
    let (mut all, mut rounded_away) = (0.0, 0.0);
    for (bit, component) in components.iter().enumerate().take(shape.tail_components()) {
        let exactly = f64::from(component.unsigned_abs()) * per_component;
        let weight = (exactly + 0.5) as u8;
        weights.set(bit, weight, *component >= 0);
        all += f64::from(weight);
        rounded_away += (exactly - f64::from(weight)) / 2.0;
    }
    (weights, Zero { at: all / 2.0, rounded_away: rounded_away.max(0.0) })
}

impl fmt::Debug for SketchProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SketchProbe({} components)", self.dimension)
    }
}

/// How many deviations a normal number falls short of its mean with this probability, 0 to ½.
pub(super) fn quantile(probability: f64) -> f64 {
    // By halving: the tail falls strictly, and 10 deviations are beyond any budget.
    let (mut low, mut high) = (0.0, 10.0);
    while high - low > 1e-9 {
        let middle = (low + high) / 2.0;
        if libm::erfc(middle / SQRT_2) / 2.0 > probability { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published quantiles of the standard normal distribution.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, deviations) in [(0.5, 0.0), (0.025, 1.959_964), (1e-3, 3.090_232), (3e-5, 4.012_811)] {
            assert!((quantile(probability) - deviations).abs() < 1e-6, "{probability}");
        }
    }
}
