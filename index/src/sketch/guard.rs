//! Whether a segment's rows differ from each other as a random rotation would have them: see the engine.

use crate::embedding_rows::EmbeddingRows;
use crate::sketch::code::{RowCode, Shape};

/// Pairs of rows that a segment is guarded by.
const PAIRS_MAX: usize = 4096;
/// The pair that is looked at besides the mean of all: one in so many lies farther out.
const PAIRS_BEYOND: usize = 512;
/// Of 4096 normal numbers, the one that 8 lie beyond is itself beyond this once in some 1,000 times; of fewer a little more often.
const BEYOND: f64 = 3.5;
/// √((1 − c²)(|s|² − f²)) below which the other row points along the row, or the row along its code, and t is not told.
const ASIDE_MIN: f64 = 1e-3;

/// How much wider t spreads among pairs of rows than under a random rotation, at least 1; `None` where most pairs are alike.
pub(super) fn spread(rows: &EmbeddingRows, shape: Shape) -> Option<f64> {
    let pairs = PAIRS_MAX.min(rows.len().saturating_sub(1));
    let mut code = RowCode::new(shape);
    let (mut of_heads, mut of_wholes) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    for pair in 0..pairs {
        let row = pair * rows.len() / pairs;
        // Neighbours were enrolled together, and may be alike.
        let other = (row + rows.len() / 2 + pair % 7) % rows.len();
        if let Some([head, whole]) = deviations(rows.row(row), rows.row(other), shape, &mut code) {
            of_heads.push(head);
            of_wholes.push(whole);
        }
    }
    let is_told = 2 * of_heads.len() >= pairs && pairs > 0;
    is_told.then(|| wider(of_heads).max(wider(of_wholes)).max(1.0))
}

/// How much wider than normal numbers these spread, by their mean square and by what few lie beyond.
fn wider(mut deviations: Vec<f64>) -> f64 {
    let mean_square = deviations.iter().map(|t| t * t).sum::<f64>() / deviations.len() as f64;
    deviations.iter_mut().for_each(|t| *t = t.abs());
    deviations.sort_unstable_by(f64::total_cmp);
    let beyond = deviations[deviations.len() - 1 - deviations.len() / PAIRS_BEYOND];
    mean_square.sqrt().max(beyond / BEYOND)
}

/// t·√(d − 1) of a row and another one for a probe, of their heads and of whole codes; `None` where it cannot be told.
fn deviations(row: (&[i16], u32), other: (&[i16], u32), shape: Shape, code: &mut RowCode) -> Option<[f64; 2]> {
    let ((x, x_norm), (q, q_norm)) = (row, other);
    code.write(x, x_norm);
    let lengths = f64::from(x_norm) / 1024.0 * (f64::from(q_norm) / 1024.0);
    let cosine = x.iter().zip(q).map(|(x, q)| f64::from(*x) * f64::from(*q)).sum::<f64>() / lengths;
    let of = |length: f64, of_row: f64, of_other: f64| {
        let aside = ((1.0 - cosine * cosine).max(0.0) * (length * length - of_row * of_row).max(0.0)).sqrt();
        (aside > ASIDE_MIN).then(|| (of_other - cosine * of_row) / aside * (x.len() as f64 - 1.0).sqrt())
    };
    let head = of(shape.head_length_squared().sqrt(), code.along_head(x, x_norm), code.along_head(q, q_norm))?;
    let whole = of(code.length(), code.along(x, x_norm), code.along(q, q_norm))?;
    Some([head, whole])
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::embedding::CanonicalEmbedding;
    use crate::kernel::sketch::Layout;
    use crate::rows::EnrolmentOrdinal;
    use crate::sketch::book::Book;

    fn rows(count: u32, mut value: impl FnMut(&mut ChaCha8Rng, usize) -> f32) -> EmbeddingRows {
        let mut random = ChaCha8Rng::seed_from_u64(6);
        let mut rows = EmbeddingRows::new(256);
        for ordinal in 0..count {
            let values: Vec<f32> = (0..256).map(|place| value(&mut random, place)).collect();
            rows.push(EnrolmentOrdinal(ordinal), &CanonicalEmbedding::from_f32(&values).expect("valid"));
        }
        rows
    }

    #[test]
    fn rows_that_nothing_has_turned_are_found_to_spread_wider() {
        let told = |rows: &EmbeddingRows| {
            let shape = |layout| Shape { book: Book::of(layout), dimension: 256 };
            [Layout::Fours, Layout::Sixes].map(|layout| spread(rows, shape(layout)))
        };
        let even = rows(2_000, |random, _| random.random_range(-1.0..1.0));
        assert!(told(&even).iter().all(|spread| spread.is_some_and(|spread| spread < 1.1)));
        // Every component is of one sign: words tell little, and probes lie along them.
        let one_sided = rows(2_000, |random, _| random.random_range(0.0..1.0));
        assert!(
            told(&one_sided).iter().all(|spread| spread.is_some_and(|spread| spread > 2.0)),
            "{:?}",
            told(&one_sided)
        );
        let alike = rows(300, |_, _| 1.0);
        assert_eq!(told(&alike), [None, None]);
    }
}
