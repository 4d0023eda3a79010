//! Reads the input ahead of the sending, a bounded number of records; skips what an interrupted run has done, and notices an input that is
//! another one.

use std::path::PathBuf;
use std::sync::Arc;

use blake3::Hash;
use prost::Message as _;
use semel_files::{BadRecord, Record, Records};
use semel_proto::v1::{EnrolRequest, Priority};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::tracker::{Mark, Reject, chained};

/// Records read ahead of the sending.
pub(crate) const READ_AHEAD: usize = 64;

/// Where a record is, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Its number in the input, from 0.
    pub(crate) number: u64,
    pub(crate) file: Arc<str>,
    /// The line or row in the file, from 1.
    pub(crate) row: u64,
    pub(crate) enrolment_id: String,
}

impl Place {
    /// The record as one that is not enrolled.
    pub(crate) fn rejected(&self, reason: String) -> Reject {
        Reject { file: self.file.to_string(), row: self.row, enrolment_id: self.enrolment_id.clone(), reason }
    }
}

/// A record of the input, or why it cannot be read.
pub(crate) struct Sourced {
    pub(crate) place: Place,
    pub(crate) hash: Hash,
    pub(crate) request: Result<EnrolRequest, String>,
}

/// The input is not what an interrupted run had done a part of.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the input has changed since: the first {records} records are not those that the interrupted run has done")]
pub(crate) struct Changed {
    records: u64,
}

/// What is read, and for whom.
pub(crate) struct Source {
    pub(crate) files: Vec<(PathBuf, Records)>,
    pub(crate) gallery: String,
    pub(crate) wait_ms: u32,
    pub(crate) priority: Priority,
    /// Where a run before stood.
    pub(crate) mark: Mark,
    /// A place for each record above the mark; closed when no further one is wanted.
    pub(crate) window: Arc<Semaphore>,
}

impl Source {
    /// Sends everything above the mark on, and what is below it and to be sent again. Blocks; ends when nobody receives.
    ///
    /// # Errors
    /// [`Changed`], once the records below the mark are read.
    pub(crate) fn read(self, sourced: &mpsc::Sender<Sourced>, runtime: &Handle) -> Result<(), Changed> {
        let Self { files, gallery, wait_ms, priority, mark, window } = self;
        let as_asked =
            |content| EnrolRequest { gallery: gallery.clone(), wait_ms, priority: priority.into(), ..content };
        let changed = Changed { records: mark.records };
        let (mut number, mut chain) = (0, Mark::default().chain);
        for (path, records) in files {
            let file: Arc<str> = path.display().to_string().into();
            for record in records {
                let one = source(record, number, &file, as_asked);
                let is_below = number < mark.records;
                number += 1;
                let wanted = if is_below {
                    chain = chained(&chain, &one.hash);
                    if number == mark.records && chain != mark.chain {
                        return Err(changed);
                    }
                    mark.again.contains(&one.place.number)
                } else {
                    let Ok(place) = runtime.block_on(window.acquire()) else { return Ok(()) };
                    place.forget();
                    true
                };
                if wanted && sourced.blocking_send(one).is_err() {
                    return Ok(());
                }
            }
        }
        if number < mark.records { Err(changed) } else { Ok(()) }
    }
}

fn source(
    record: Result<Record, BadRecord>,
    number: u64,
    file: &Arc<str>,
    as_asked: impl FnOnce(EnrolRequest) -> EnrolRequest,
) -> Sourced {
    match record {
        Ok(record) => {
            let row = record.line;
            // What identifies the record is its content: not the gallery, which the run has, nor how long to wait and who does.
            let content = record.into_request("", 0);
            let hash = blake3::hash(&content.encode_to_vec());
            let place = Place { number, file: Arc::clone(file), row, enrolment_id: content.enrolment_id.clone() };
            Sourced { place, hash, request: Ok(as_asked(content)) }
        }
        Err(BadRecord { file: named, line, enrolment_id, reason }) => {
            let hash = blake3::hash(format!("{line}:{reason}").as_bytes());
            // The table beside an array is what is to be mended.
            let file: Arc<str> = named.display().to_string().into();
            Sourced { place: Place { number, file, row: line, enrolment_id }, hash, request: Err(reason) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use semel_proto::v1::Modality;

    use super::*;

    fn read(ids: &[&str], mark: Mark) -> (Vec<(u64, String)>, Mark, Result<(), Changed>) {
        let lines: Vec<String> = ids
            .iter()
            .map(|id| format!(r#"{{"enrolment_id": "{id}", "references": [{{"embedding": [1, 2]}}]}}"#))
            .collect();
        let records = Records::json_lines(Cursor::new(lines.join("\n")), PathBuf::from("x.jsonl"), Modality::Face);
        let source = Source {
            files: vec![(PathBuf::from("x.jsonl"), records)],
            gallery: "people".to_owned(),
            wait_ms: 7,
            priority: Priority::Bulk,
            mark,
            window: Arc::new(Semaphore::new(100)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (sender, mut receiver) = mpsc::channel(100);
        let outcome = source.read(&sender, runtime.handle());
        drop(sender);
        let (mut sent, mut mark) = (Vec::new(), Mark::default());
        while let Ok(one) = receiver.try_recv() {
            mark = Mark { records: mark.records + 1, chain: chained(&mark.chain, &one.hash), ..mark };
            let request = one.request.expect("it can be read");
            assert_eq!((request.gallery.as_str(), request.wait_ms), ("people", 7));
            assert_eq!(request.priority(), Priority::Bulk);
            sent.push((one.place.number, one.place.enrolment_id));
        }
        (sent, mark, outcome)
    }

    fn numbered(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|(number, id)| (*number, (*id).to_owned())).collect()
    }

    #[test]
    fn what_was_done_is_skipped_and_the_rest_goes_on() {
        let (all, _, outcome) = read(&["a", "b", "c", "d"], Mark::default());
        assert_eq!((all, outcome), (numbered(&[(0, "a"), (1, "b"), (2, "c"), (3, "d")]), Ok(())));
        let (_, two_done, _) = read(&["a", "b"], Mark::default());
        let (rest, ..) = read(&["a", "b", "c", "d"], two_done.clone());
        assert_eq!(rest, numbered(&[(2, "c"), (3, "d")]));
        let (rest, _, outcome) = read(&["a", "b", "c"], Mark { again: [0].into(), ..two_done });
        assert_eq!((rest, outcome), (numbered(&[(0, "a"), (2, "c")]), Ok(())));
    }

    #[test]
    fn another_input_is_noticed_before_anything_above_the_mark_is_sent() {
        let (_, two_done, _) = read(&["a", "b"], Mark::default());
        for other in [&["a", "x", "c"][..], &["b", "a", "c"], &["a"], &[]] {
            let (sent, _, outcome) = read(other, two_done.clone());
            assert_eq!((sent, outcome), (vec![], Err(Changed { records: 2 })), "{other:?}");
        }
        // What is added at the end is new, and no change.
        assert_eq!(read(&["a", "b", "z"], two_done).2, Ok(()));
    }
}
