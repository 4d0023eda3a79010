//! The rejects file: a table of the records that were not enrolled, in the input's order.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::tracker::Reject;

/// A rejects file under way.
pub(crate) struct RejectsFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl RejectsFile {
    /// Opens the file where a run stood, `kept` bytes from its beginning; what was written after that comes again. A run that begins has
    /// kept none.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub(crate) fn open(path: &Path, kept: u64) -> anyhow::Result<Self> {
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let kept = kept.min(file.metadata()?.len());
            file.set_len(kept)?;
            file.seek(SeekFrom::Start(kept))?;
            Ok::<_, std::io::Error>((file, kept))
        };
        let (file, bytes) = open().with_context(|| format!("open the rejects file {}", path.display()))?;
        let mut rejects = Self { path: path.to_owned(), file, bytes };
        if bytes == 0 {
            rejects.write(["file", "row", "enrolment_id", "reason"])?;
        }
        Ok(rejects)
    }

    /// Adds one.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub(crate) fn add(&mut self, reject: &Reject) -> anyhow::Result<()> {
        self.write([&reject.file, &reject.row.to_string(), &reject.enrolment_id, &reject.reason])
    }

    fn write<const N: usize>(&mut self, cells: [&str; N]) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(cells)?;
        let line = writer.into_inner().context("format a line")?;
        self.file.write_all(&line).with_context(|| format!("write {}", self.path.display()))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Its length, once all of it is on disk: a progress file that counts on it must not be newer.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub(crate) fn synced_bytes(&self) -> anyhow::Result<u64> {
        self.file.sync_data().with_context(|| format!("write {}", self.path.display()))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_writes_over_what_comes_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejects.csv");
        let reject = |row, reason: &str| Reject {
            file: "people.csv".to_owned(),
            row,
            enrolment_id: "a,1".to_owned(),
            reason: reason.to_owned(),
        };
        let mut rejects = RejectsFile::open(&path, 0).expect("opened");
        rejects.add(&reject(2, "quality: `good`")).expect("written");
        let stood = rejects.synced_bytes().expect("on disk");
        rejects.add(&reject(3, "x")).expect("written");
        drop(rejects);
        let mut rejects = RejectsFile::open(&path, stood).expect("opened again");
        rejects.add(&reject(3, "y")).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        let expected = "file,row,enrolment_id,reason\npeople.csv,2,\"a,1\",quality: `good`\npeople.csv,3,\"a,1\",y\n";
        assert_eq!(text, expected);
    }
}
