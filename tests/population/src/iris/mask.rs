//! What covers an eye: eyelids that close in from two sides, outer rows first, and scattered noise.

use std::cmp::Ordering;

use rand::Rng;
use rand::seq::index;
use semel_index::BinaryCodeSpec;

/// Share of the covered cells that are noise: lashes and reflections.
const NOISE_SHARE: f64 = 0.15;
/// Where each lid is centred, as a share of the columns, and how fast it closes.
const LIDS: [(f64, f64); 2] = [(0.25, 0.65), (0.75, 0.35)];

/// The cells of a code in the order in which closing lids cover them.
#[derive(Debug, Clone)]
pub(super) struct CoverOrder {
    cells: Vec<usize>,
    bits_per_cell: usize,
}

impl CoverOrder {
    pub(super) fn new(spec: &BinaryCodeSpec) -> Self {
        let [rows, columns, bits_per_cell] = [spec.rows, spec.columns, spec.bits_per_cell].map(|size| size as usize);
        let covered_at = |cell: usize| {
            let (row, column) = (cell / columns, cell % columns);
            let depth = (row + 1) as f64 / rows as f64;
            let of_lid = |(centre, speed): (f64, f64)| {
                let apart = ((column as f64 + 0.5) / columns as f64 - centre).abs();
                apart.min(1.0 - apart) / (speed * depth)
            };
            LIDS.into_iter().map(of_lid).fold(f64::INFINITY, f64::min)
        };
        let mut cells: Vec<usize> = (0..rows * columns).collect();
        let in_order = |a: &usize, b: &usize| -> Ordering { covered_at(*a).total_cmp(&covered_at(*b)).then(a.cmp(b)) };
        cells.sort_by(in_order);
        Self { cells, bits_per_cell }
    }

    /// A mask with this share of its cells valid, to the nearest cell: an array like the code's.
    pub(super) fn mask(&self, valid_share: f64, stream: &mut impl Rng) -> Vec<bool> {
        let covered = ((1.0 - valid_share).clamp(0.0, 1.0) * self.cells.len() as f64).round() as usize;
        let noise = (covered as f64 * NOISE_SHARE).round() as usize;
        let (under_lids, open) = self.cells.split_at(covered - noise);
        let mut mask = vec![true; self.cells.len() * self.bits_per_cell];
        let mut cover = |cell: usize| mask[cell * self.bits_per_cell..][..self.bits_per_cell].fill(false);
        under_lids.iter().for_each(|cell| cover(*cell));
        index::sample(stream, open.len(), noise).into_iter().for_each(|place| cover(open[place]));
        mask
    }
}
