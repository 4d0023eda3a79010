//! The scan of binary codes by each path of its kernel, and what bounds the `sketch` engine, for benchmarks; not part of the interface.

use crate::binary_code::BinaryCode;
use crate::binary_rows::{BinaryRows, BinaryScanProbe};
use crate::kernel::{self, Path};
use crate::rows::EnrolmentOrdinal;
use crate::score::ComparisonScore;
use crate::template::BinaryCodeSpec;

/// Whether comparisons may end once the rest cannot change what is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// All bits of all pairs.
    ToTheEnd,
    /// As searches do.
    UntilDecided,
}

/// Rows, probes, and how they are compared.
#[derive(Debug)]
pub struct MeasuredScan {
    rows: BinaryRows,
    probes: Vec<BinaryScanProbe>,
}

impl MeasuredScan {
    /// Rows and probes of one spec, under one threshold.
    pub fn new(
        spec: BinaryCodeSpec,
        rows: &[BinaryCode],
        probes: &[BinaryCode],
        threshold: ComparisonScore,
        counting: Counting,
    ) -> Self {
        let mut held = BinaryRows::new(spec);
        for (number, row) in rows.iter().enumerate() {
            held.push(EnrolmentOrdinal(number as u32), row);
        }
        let ready = |probe| match counting {
            Counting::ToTheEnd => BinaryScanProbe::counted_to_the_end(&spec, probe, threshold),
            Counting::UntilDecided => BinaryScanProbe::new(&spec, probe, threshold),
        };
        Self { rows: held, probes: probes.iter().map(ready).collect() }
    }

    /// The paths that this processor has, by name.
    pub fn paths() -> Vec<String> {
        Path::available().iter().map(|path| format!("{path:?}")).collect()
    }

    /// Compares all rows with all probes by the path of that place in [`Self::paths`]: how many pairs are comparable, and how many
    /// reach the threshold.
    pub fn run(&self, path: usize) -> (u64, u64) {
        let probes: Vec<&BinaryScanProbe> = self.probes.iter().collect();
        let (mut comparable, mut reaching) = (0, 0);
        self.rows.scan_by(Path::available()[path], 0..self.rows.rows().len(), &probes, &mut |_, _, score| {
            comparable += 1;
            reaching += u64::from(score.is_some());
        });
        (comparable, reaching)
    }

    /// The share of the work of a path, in tiles of strips and shifts, that ends before all bits are counted.
    pub fn decided_early(&self, path: usize) -> f64 {
        let path = Path::available()[path];
        let shares = self.probes.iter().map(|probe| self.rows.decided_early(path, probe));
        shares.sum::<f64>() / self.probes.len() as f64
    }
}

/// So many words, not zero, that lie in memory as the codes of the `sketch` engine do: to see how fast that can be read.
pub fn words(count: usize) -> Vec<u64> {
    let mut words = kernel::reserved(count);
    words.resize(count, 1);
    words
}

/// Looks bytes up and adds them up in registers alone, as the kernel of the `sketch` engine would where nothing held it up: how many there
/// were, of so many rounds.
pub fn lookups(rounds: u64) -> u64 {
    kernel::sketch::lookups(Path::detect(), rounds)
}
