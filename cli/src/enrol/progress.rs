//! The progress file: where an interrupted run stood, kept beside the input so that the same command goes on from there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::tracker::Mark;
use crate::exit::UsageError;

/// The form of the file that is written.
const VERSION: u32 = 1;
/// The largest progress file that is read, in bytes; one that names as many records to be sent again as there may be is smaller.
const BYTES_MAX: u64 = 1024 * 1024;

/// What a run enrols: two runs that differ in this have nothing to go on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// 32 hexadecimal digits.
    pub(crate) cluster_id: String,
    pub(crate) gallery: String,
    /// As named on the command line.
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(flatten)]
    run: Run,
    /// Records below the mark.
    records: u64,
    /// The chain of hashes over them, in hex.
    chain: String,
    /// Those of them that are to be sent again.
    again: std::collections::BTreeSet<u64>,
    /// The length of the rejects file with the rejected among them.
    rejects_bytes: u64,
}

/// Where a run stood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) mark: Mark,
    pub(crate) rejects_bytes: u64,
}

/// A progress file.
pub(crate) struct ProgressFile {
    path: PathBuf,
    run: Run,
}

impl ProgressFile {
    /// The file beside the first input; none for standard input, which cannot be read again.
    pub(crate) fn beside(files: &[PathBuf]) -> Option<PathBuf> {
        let first = files.first()?;
        let readable_again = files.iter().all(|file| file.as_os_str() != "-");
        let mut name = first.file_name()?.to_owned();
        name.push(".progress");
        readable_again.then(|| first.with_file_name(name))
    }

    pub(crate) fn new(path: PathBuf, run: Run) -> Self {
        Self { path, run }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a run before stood; `None` if none was interrupted.
    ///
    /// # Errors
    /// The file is no progress file, or is of another run.
    pub(crate) fn load(&self) -> anyhow::Result<Option<Stand>> {
        let shown = self.path.display();
        let length = match fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(UsageError(format!("{shown}: {error}")).into()),
        };
        let other = |what: &str| {
            UsageError(format!("{shown}: {what}; remove it to enrol everything, or name another with --progress"))
        };
        if length > BYTES_MAX {
            return Err(other("is not a progress file").into());
        }
        let text = fs::read_to_string(&self.path).map_err(|error| UsageError(format!("{shown}: {error}")))?;
        let document: Document = serde_json::from_str(&text).map_err(|_| other("is not a progress file"))?;
        let chain = Hash::from_hex(&document.chain).map_err(|_| other("is not a progress file"))?;
        if document.version != VERSION {
            return Err(other("was written by another version").into());
        }
        if document.run != self.run {
            return Err(other("is of a run with another cluster, gallery or files").into());
        }
        let mark = Mark { records: document.records, chain, again: document.again };
        Ok(Some(Stand { mark, rejects_bytes: document.rejects_bytes }))
    }

    /// Replaces the file in one step, so that whatever interrupts it leaves the one before.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub(crate) fn save(&self, mark: &Mark, rejects_bytes: u64) -> anyhow::Result<()> {
        let document = Document {
            version: VERSION,
            run: self.run.clone(),
            records: mark.records,
            chain: mark.chain.to_hex().to_string(),
            again: mark.again.clone(),
            rejects_bytes,
        };
        let mut beside = self.path.clone().into_os_string();
        beside.push(".new");
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(serde_json::to_string(&document)?.as_bytes())?;
            file.sync_data()?;
            fs::rename(&beside, &self.path)
        };
        write().with_context(|| format!("keep the progress in {}", self.path.display()))
    }

    /// Removes the file of a run that is done.
    ///
    /// # Errors
    /// What keeps it from being removed.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gallery: &str) -> Run {
        Run { cluster_id: "c".to_owned(), gallery: gallery.to_owned(), files: vec![PathBuf::from("people.npy")] }
    }

    #[test]
    fn a_run_finds_where_it_stood_and_no_other_run_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("people.npy.progress");
        let file = ProgressFile::new(path.clone(), run("people"));
        assert_eq!(file.load().expect("nothing wrong"), None);
        let mark = Mark { records: 700, chain: blake3::hash(b"x"), again: [3, 5].into() };
        file.save(&Mark::default(), 0).expect("written");
        file.save(&mark, 41).expect("written again");
        assert_eq!(file.load().expect("its own"), Some(Stand { mark, rejects_bytes: 41 }));
        let error = ProgressFile::new(path.clone(), run("others")).load().expect_err("another gallery").to_string();
        assert!(error.contains("another cluster, gallery or files") && error.contains("--progress"), "{error}");
        fs::write(&path, "[]").expect("written");
        assert!(file.load().expect_err("no progress file").to_string().contains("is not a progress file"));
        file.remove().expect("removed");
        file.remove().expect("nothing to remove");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
    }

    #[test]
    fn the_file_lies_beside_the_first_input() {
        let beside = |files: &[&str]| ProgressFile::beside(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(beside(&["in/people.npy", "b.jsonl"]), Some(PathBuf::from("in/people.npy.progress")));
        assert_eq!(beside(&["-"]), None);
        assert_eq!(beside(&["a.jsonl", "-"]), None);
    }
}
