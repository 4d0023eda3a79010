//! What `semel bench engines` searches, as arrays that other programs read: see `cli/bench/peers.py`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use npyz::WriterBuilder as _;
use semel_index::{CanonicalEmbedding, EmbeddingRows};
use serde::Serialize;

/// The form of the folder.
const VERSION: u32 = 1;
/// Says what the arrays beside it are. Written last: a folder without it is not complete.
const DESCRIPTION: &str = "export.json";

/// What the arrays of a folder are, for whoever reads them, and what its results should say of the data.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    pub(super) references: u32,
    pub(super) dimension: u32,
    pub(super) population: String,
    pub(super) seed: u64,
    pub(super) threshold: f64,
    /// Rows of `mated.npy` that are further captures; the others are planted.
    pub(super) captures: u32,
    pub(super) processor: String,
}

/// The data of one number of references.
pub(super) struct Data<'a> {
    pub(super) rows: &'a EmbeddingRows,
    pub(super) strangers: &'a [CanonicalEmbedding],
    pub(super) mated: &'a [CanonicalEmbedding],
    /// The reference that each mated probe was made from.
    pub(super) made_from: &'a [u32],
    /// All rows that score the threshold or more with each mated probe.
    pub(super) truth: &'a [BTreeSet<u32>],
}

/// Writes them, row by row: what is in memory already is all the memory that it takes.
pub(super) fn write(folder: &Path, description: &Description, data: &Data) -> anyhow::Result<()> {
    write_all(folder, description, data).with_context(|| format!("--export {}", folder.display()))
}

fn write_all(folder: &Path, description: &Description, data: &Data) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let described = folder.join(DESCRIPTION);
    match std::fs::remove_file(&described) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let dimension = u64::from(data.rows.dimension());
    let references = (0..data.rows.len()).map(|row| data.rows.row(row).0);
    array(&folder.join("references.npy"), &[references.len() as u64, dimension], references.flat_map(unit))?;
    for (name, probes) in [("strangers.npy", data.strangers), ("mated.npy", data.mated)] {
        let values = probes.iter().flat_map(|probe| unit(probe.components()));
        array(&folder.join(name), &[probes.len() as u64, dimension], values)?;
    }
    array(&folder.join("made_from.npy"), &[data.made_from.len() as u64], data.made_from.iter().copied())?;
    let pairs = (0_u32..).zip(data.truth).flat_map(|(probe, rows)| rows.iter().flat_map(move |row| [probe, *row]));
    let count = data.truth.iter().map(BTreeSet::len).sum::<usize>();
    array(&folder.join("mates.npy"), &[count as u64, 2], pairs)?;

    #[derive(Serialize)]
    struct Versioned<'a> {
        version: u32,
        #[serde(flatten)]
        description: &'a Description,
    }
    let mut text = serde_json::to_string_pretty(&Versioned { version: VERSION, description })?;
    text.push('\n');
    Ok(std::fs::write(described, text)?)
}

/// The components scaled to length one, as they are compared.
fn unit(components: &[i16]) -> impl Iterator<Item = f32> {
    let squared: i64 = components.iter().map(|component| i64::from(*component).pow(2)).sum();
    let length = (squared as f64).sqrt();
    components.iter().map(move |component| (f64::from(*component) / length) as f32)
}

fn array<T: npyz::AutoSerialize>(file: &Path, shape: &[u64], values: impl Iterator<Item = T>) -> anyhow::Result<()> {
    let mut bytes = BufWriter::new(File::create(file)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(bytes.flush()?)
}

#[cfg(test)]
mod tests {
    use semel_index::EnrolmentOrdinal;

    use super::*;

    #[test]
    fn an_export_has_the_rows_the_probes_and_which_of_them_are_mates() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let of = |values: [f32; 4]| CanonicalEmbedding::from_f32(&values).expect("four components");
        let mut rows = EmbeddingRows::new(4);
        for (ordinal, reference) in (0..).zip([of([1.0, 0.0, 0.0, 0.0]), of([0.0, 3.0, 4.0, 0.0])]) {
            rows.push(EnrolmentOrdinal(ordinal), &reference);
        }
        let strangers = [of([0.0, 0.0, 0.0, -2.0])];
        let mated = [of([0.0, 6.0, 8.0, 0.0]), of([1.0, 1.0, 0.0, 0.0])];
        let truth = [BTreeSet::from([1]), BTreeSet::from([0, 1])];
        let data = Data { rows: &rows, strangers: &strangers, mated: &mated, made_from: &[1, 0], truth: &truth };
        let description = Description {
            references: 2,
            dimension: 4,
            population: "f1".to_owned(),
            seed: 1,
            threshold: 0.42,
            captures: 1,
            processor: "one".to_owned(),
        };
        let within = folder.path().join("deeper");
        for _ in 0..2 {
            write(&within, &description, &data).expect("written, also over an earlier export");
        }

        fn read<T: npyz::Deserialize>(file: &Path) -> (Vec<u64>, Vec<T>) {
            let bytes = std::fs::read(file).expect("the file is there");
            let array = npyz::NpyFile::new(&bytes[..]).expect("an array");
            (array.shape().to_vec(), array.into_vec().expect("of the type"))
        }
        let (shape, references) = read::<f32>(&within.join("references.npy"));
        assert_eq!(shape, [2, 4]);
        for (value, expected) in references.iter().zip([1.0, 0.0, 0.0, 0.0, 0.0, 0.6, 0.8, 0.0]) {
            assert!((value - expected).abs() < 1e-4, "{references:?}");
        }
        assert_eq!(read::<f32>(&within.join("strangers.npy")), (vec![1, 4], vec![0.0, 0.0, 0.0, -1.0]));
        assert_eq!(read::<f32>(&within.join("mated.npy")).0, [2, 4]);
        assert_eq!(read::<u32>(&within.join("made_from.npy")), (vec![2], vec![1, 0]));
        assert_eq!(read::<u32>(&within.join("mates.npy")), (vec![3, 2], vec![0, 1, 1, 0, 1, 1]));
        let described = std::fs::read_to_string(within.join(DESCRIPTION)).expect("the description is there");
        assert!(described.contains(r#""version": 1"#) && described.contains(r#""captures": 1"#), "{described}");
    }
}
