//! The texture of one eye: circular Markov chains along the columns, and the bits that are fragile in it.

use rand::{Rng, RngExt};
use semel_index::BinaryCodeSpec;

use super::IrisModel;

/// Rows that show the same stream: neighbouring radial bands of an eye are nearly equal.
const ROWS_PER_STREAM: usize = 2;
/// A chain is drawn until it closes, which it does about every other time.
const ATTEMPTS_MAX: usize = 1_000;

/// One eye, as arrays `[rows][columns][bits_per_cell]`.
pub(super) struct Texture {
    pub(super) bits: Vec<bool>,
    /// Bits that flip more often than others, in every capture of this eye.
    pub(super) fragile: Vec<bool>,
}

impl Texture {
    pub(super) fn draw(model: &IrisModel, spec: &BinaryCodeSpec, stream: &mut impl Rng) -> Self {
        let [rows, columns, depth] = [spec.rows, spec.columns, spec.bits_per_cell].map(|size| size as usize);
        let chains: Vec<Vec<bool>> = (0..rows / ROWS_PER_STREAM * depth)
            .map(|_| circular_chain(columns, model.neighbours_differ, model.ones_share, stream))
            .collect();
        let bit = |place: usize| {
            let (row, column, plane) = (place / (columns * depth), place / depth % columns, place % depth);
            chains[row / ROWS_PER_STREAM * depth + plane][column]
        };
        let bits: Vec<bool> = (0..rows * columns * depth).map(bit).collect();
        let fragile = bits.iter().map(|_| stream.random::<f64>() < model.fragile_share).collect();
        Self { bits, fragile }
    }
}

/// A stationary two-state chain on a circle, with this share of ones, whose neighbours differ this often.
fn circular_chain(columns: usize, differ: f64, ones_share: f64, stream: &mut impl Rng) -> Vec<bool> {
    let pace = differ / (2.0 * ones_share * (1.0 - ones_share));
    let leaves = |one: bool| if one { pace * (1.0 - ones_share) } else { pace * ones_share };
    let attempt = |_| {
        let mut state = stream.random::<bool>();
        let mut chain = Vec::with_capacity(columns);
        chain.push(state);
        for _ in 1..columns {
            state ^= stream.random::<f64>() < leaves(state);
            chain.push(state);
        }
        // Accepting with the probability of the step back to the start makes every column's law the same.
        let closes = state ^ (stream.random::<f64>() < leaves(state)) == chain[0];
        closes.then_some(chain)
    };
    (0..ATTEMPTS_MAX).find_map(attempt).expect("each attempt closes with a probability near one half")
}
