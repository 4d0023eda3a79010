//! A pinned view of one group's rows, cut into chunks. It lives on a thread of its own, which owns what the pinning borrows, and is
//! asked for chunks by number; the same number gives the same chunk for as long as the view lives.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::{Bytes, BytesMut};
use semel_proto::internal::v1::{SnapshotChunk, SnapshotEnd};
use semel_raft::{SnapshotMetadata, StoreError, Table};
use tokio::sync::oneshot;

use crate::group_store::GroupSnapshot;
use crate::holders::Held;
use crate::snapshot::CHUNK_BYTES;
use crate::snapshot::chunk::{self, Tally};

/// Why a view gave no chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error("{0}")]
    Read(#[from] StoreError),
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the receiver asks for a chunk that was not sent")]
    NoSuchChunk,
    #[error("the view has ended")]
    Ended,
}

/// What comes next of a snapshot.
#[derive(Debug)]
pub(crate) enum Piece {
    Chunk(SnapshotChunk),
    End(SnapshotEnd),
}

/// A handle on a pinned view; the view is let go with its last handle.
pub(crate) struct View {
    pub(crate) id: [u8; 16],
    pub(crate) metadata: SnapshotMetadata,
    asks: mpsc::Sender<Ask>,
}

struct Ask {
    number: u64,
    reply: oneshot::Sender<Result<Piece, ViewError>>,
}

impl View {
    /// Pins the rows of a group as they are.
    pub(crate) async fn pin(database: Held, group: u64, tables: &'static [Table]) -> Result<Arc<Self>, ViewError> {
        let id: [u8; 16] = rand::random();
        let (asks, asked) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        thread::Builder::new().name("snapshot-view".to_owned()).spawn(move || {
            // Declared first, hence dropped last.
            let database = database;
            let store = database.group(group);
            let snapshot = store.snapshot();
            let metadata = semel_raft::snapshot_of(&snapshot);
            let readable = metadata.is_ok();
            // Whoever asked may have gone meanwhile.
            if opened.send(metadata).is_err() || !readable {
                return;
            }
            let mut chunks =
                Chunks { id, snapshot: &snapshot, tables, starts: vec![Cursor::default()], tally: Tally::default() };
            for Ask { number, reply } in asked {
                let _ = reply.send(chunks.piece(number));
            }
        })?;
        let metadata = opening.await.map_err(|_| ViewError::Ended)??;
        Ok(Arc::new(Self { id, metadata, asks }))
    }

    /// The chunk of a number, or the end if there are no more.
    pub(crate) async fn piece(&self, number: u64) -> Result<Piece, ViewError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask { number, reply }).map_err(|_| ViewError::Ended)?;
        answer.await.map_err(|_| ViewError::Ended)?
    }
}

/// Where a chunk begins.
#[derive(Clone, Default)]
struct Cursor {
    table: usize,
    from: Vec<u8>,
}

struct Chunks<'a> {
    id: [u8; 16],
    snapshot: &'a GroupSnapshot<'a>,
    tables: &'static [Table],
    /// Where each chunk read so far begins, and the one after them.
    starts: Vec<Cursor>,
    /// Of all chunks read so far.
    tally: Tally,
}

impl Chunks<'_> {
    fn piece(&mut self, number: u64) -> Result<Piece, ViewError> {
        let at = usize::try_from(number).ok().filter(|at| *at < self.starts.len()).ok_or(ViewError::NoSuchChunk)?;
        let Some(read) = self.read(&self.starts[at].clone())? else { return Ok(Piece::End(self.tally.end())) };
        let chunk = chunk::sealed(&self.id, number, self.tables[read.table].0, read.bytes);
        if at + 1 == self.starts.len() {
            self.tally.add(read.rows, &chunk.checksum);
            self.starts.push(read.next);
        }
        Ok(Piece::Chunk(chunk))
    }

    /// Reads the rows of one chunk; `None` where there are none left.
    fn read(&self, start: &Cursor) -> Result<Option<Read>, StoreError> {
        let mut from = start.from.as_slice();
        for table in start.table..self.tables.len() {
            let (mut bytes, mut rows, mut last) = (BytesMut::new(), 0, Vec::new());
            let end = self.snapshot.visit(self.tables[table], from, |key, value| {
                chunk::put_row(&mut bytes, key, value);
                rows += 1;
                if bytes.len() < CHUNK_BYTES {
                    return ControlFlow::Continue(());
                }
                last = key.to_vec();
                ControlFlow::Break(())
            })?;
            if rows > 0 {
                let next = match end {
                    // The smallest key after the last one.
                    ControlFlow::Break(()) => Cursor { table, from: [last.as_slice(), &[0]].concat() },
                    ControlFlow::Continue(()) => Cursor { table: table + 1, from: Vec::new() },
                };
                return Ok(Some(Read { table, bytes: bytes.freeze(), rows, next }));
            }
            from = &[];
        }
        Ok(None)
    }
}

struct Read {
    table: usize,
    bytes: Bytes,
    rows: u64,
    next: Cursor,
}
