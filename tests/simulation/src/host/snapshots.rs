//! Snapshots between processes: sent in parts, one after another, each until it is acknowledged or the receiver is given up;
//! laid beside the live rows as they come; exchanged for them in one synced write while the replica is closed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use semel_raft::{
    Event as RaftEvent, ReplicaId, SnapshotMetadata, SnapshotRequest, Store as _, StoreError, Table, WriteBatch,
    install, snapshot_of,
};

use super::{Digested, Host, Out};
use crate::disk::GroupDisk;
use crate::messages::Message;
use crate::mutant::Mutant;
use crate::world::{Died, Place, World};

/// Ticks after which a part that nobody acknowledged is sent again.
const RESEND_TICKS: u32 = 6;
/// Ticks without progress after which a transfer is given up.
const STALLED_TICKS_MAX: u32 = 60;
/// Where the rows of a snapshot lie until it is installed: in a group of their own.
const BESIDE: u64 = 1 << 40;
/// Sorts after every key.
const END: &[u8] = &[0xff; 64];

/// Rows of a machine.
#[derive(Clone)]
pub(crate) struct Rows(Arc<[(Table, Bytes, Bytes)]>);

impl fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They hold templates.
        write!(formatter, "{} rows", self.0.len())
    }
}

/// A part of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    group: u64,
    to: ReplicaId,
    transfer: u64,
    metadata: Bytes,
    number: usize,
    last: bool,
    rows: Rows,
}

/// What the receiver has of a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    transfer: u64,
    /// The part wanted next.
    next: usize,
    /// Whether it is over, and if so, whether the snapshot is installed or was of no use.
    ended: Option<bool>,
}

/// The transfers of a process, by group: at most one comes in for each replica.
#[derive(Default)]
pub(super) struct Transfers {
    outgoing: BTreeMap<u64, Outgoing>,
    incoming: BTreeMap<u64, Incoming>,
    /// Groups whose snapshot has arrived and is to be installed.
    complete: Vec<u64>,
}

struct Outgoing {
    group: u64,
    to: ReplicaId,
    metadata: Bytes,
    rows: Rows,
    next: usize,
    quiet_ticks: u32,
    stalled_ticks: u32,
}

struct Incoming {
    from: Place,
    transfer: u64,
    metadata: SnapshotMetadata,
    next: usize,
    quiet_ticks: u32,
}

impl Transfers {
    /// Forgets what comes in for a replica that is taken away.
    pub(super) fn forget(&mut self, group: u64) {
        self.incoming.remove(&group);
        self.outgoing.retain(|_, outgoing| outgoing.group != group);
        self.complete.retain(|complete| *complete != group);
    }
}

/// Where the rows of a group's snapshot lie until it is installed.
pub(super) fn beside(group: u64) -> u64 {
    group | BESIDE
}

impl<M: Digested> Host<M> {
    /// Sends the snapshots that leaders wait for.
    pub(super) fn send_wanted(&mut self, world: &mut World) {
        for (group, request) in std::mem::take(&mut self.wanted) {
            self.send_snapshot(world, group, request);
        }
    }

    /// Pins the rows as they are and begins to send them.
    pub(super) fn send_snapshot(&mut self, world: &mut World, group: u64, request: SnapshotRequest) {
        world.tally.snapshots_wanted += 1;
        let rows = self.rows(group);
        let pinned = snapshot_of(&rows).and_then(|metadata| Ok((metadata, machine_rows::<M>(&rows)?)));
        let Ok((metadata, rows)) = pinned else {
            self.waiting.push((group, RaftEvent::SnapshotSent { to: request.to, delivered: false }));
            return;
        };
        let transfer = world.number();
        let index = metadata.index();
        world.note(self.place, "sends snapshot", transfer, || {
            format!("of group {group} up to {index} to {}", request.to)
        });
        let metadata = metadata.encode().into();
        let (next, quiet_ticks, stalled_ticks) = (0, 0, 0);
        let outgoing = Outgoing { group, to: request.to, metadata, rows, next, quiet_ticks, stalled_ticks };
        self.transfers.outgoing.insert(transfer, outgoing);
        self.send_part(world, transfer);
    }

    fn send_part(&mut self, world: &mut World, transfer: u64) {
        let live = self.transfers.outgoing.get(&transfer).map(|outgoing| self.rows(outgoing.group));
        let Some(outgoing) = self.transfers.outgoing.get_mut(&transfer) else { return };
        outgoing.quiet_ticks = 0;
        if world.has(Mutant::SnapshotRowsLater)
            && let Some(Ok(rows)) = live.map(|rows| machine_rows::<M>(&rows))
        {
            outgoing.rows = rows;
        }
        let Some(to) = world.directory.get(&(outgoing.group, outgoing.to)).copied() else { return };
        let from = outgoing.rows.0.len().min(outgoing.next * world.snapshot_rows);
        let up_to = outgoing.rows.0.len().min(from + world.snapshot_rows);
        let part = Part {
            group: outgoing.group,
            to: outgoing.to,
            transfer,
            metadata: outgoing.metadata.clone(),
            number: outgoing.next,
            last: up_to == outgoing.rows.0.len(),
            rows: Rows(outgoing.rows.0[from..up_to].into()),
        };
        world.tally.snapshot_parts += 1;
        world.send(self.place, to, Message::Snapshot(part));
    }

    /// The receiver of a snapshot says what it has.
    pub(crate) fn snapshot_taken(&mut self, world: &mut World, taken: Taken) -> Result<(), Died> {
        let Some(outgoing) = self.transfers.outgoing.get_mut(&taken.transfer) else { return Ok(()) };
        if let Some(delivered) = taken.ended {
            return self.end_snapshot(world, taken.transfer, delivered);
        }
        let progressed = taken.next > outgoing.next;
        if progressed || taken.next == 0 {
            outgoing.next = taken.next;
            outgoing.stalled_ticks *= u32::from(!progressed);
            self.send_part(world, taken.transfer);
        }
        Ok(())
    }

    fn end_snapshot(&mut self, world: &mut World, transfer: u64, delivered: bool) -> Result<(), Died> {
        let Some(Outgoing { group, to, .. }) = self.transfers.outgoing.remove(&transfer) else { return Ok(()) };
        world.tally.snapshots_given_up += u64::from(!delivered);
        self.tell(world, group, RaftEvent::SnapshotSent { to, delivered })
    }

    /// A tick passed: what was not acknowledged is sent again, or given up.
    pub(super) fn tick_snapshots(&mut self, world: &mut World) -> Result<(), Died> {
        self.transfers.incoming.values_mut().for_each(|incoming| incoming.quiet_ticks += 1);
        let transfers: Vec<u64> = self.transfers.outgoing.keys().copied().collect();
        for transfer in transfers {
            let outgoing = self.transfers.outgoing.get_mut(&transfer).expect("just seen");
            outgoing.quiet_ticks += 1;
            outgoing.stalled_ticks += 1;
            if outgoing.stalled_ticks > STALLED_TICKS_MAX {
                self.end_snapshot(world, transfer, false)?;
            } else if outgoing.quiet_ticks > RESEND_TICKS {
                self.send_part(world, transfer);
            }
        }
        Ok(())
    }

    /// A part of a snapshot arrives.
    pub(crate) fn take_part(&mut self, world: &mut World, from: Place, part: Part) -> Result<(), Died> {
        let Part { group, to, transfer, metadata, number, last, rows } = part;
        let answer = |world: &mut World, place: Place, next, ended| {
            world.send(place, from, Message::SnapshotTaken(Taken { transfer, next, ended }));
        };
        if self.seats.get(&group).is_none_or(|seat| seat.id != to || seat.replica.is_none()) {
            answer(world, self.place, 0, Some(false));
            return Ok(());
        }
        if self.transfers.complete.contains(&group) {
            return Ok(());
        }
        let incoming = self.transfers.incoming.get(&group);
        // One at a time: two leaders that take turns would else both begin anew for ever.
        if incoming.is_some_and(|other| other.transfer != transfer && other.quiet_ticks <= STALLED_TICKS_MAX) {
            answer(world, self.place, 0, Some(false));
            return Ok(());
        }
        let known = incoming.filter(|incoming| incoming.transfer == transfer);
        let next = known.map_or(0, |incoming| incoming.next);
        if number != next {
            answer(world, self.place, next, None);
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        if number == 0 {
            clear::<M>(&mut batch);
            let metadata = SnapshotMetadata::decode(&metadata).expect("as it was encoded");
            self.transfers.incoming.insert(group, Incoming { from, transfer, metadata, next: 0, quiet_ticks: 0 });
        }
        rows.0.iter().for_each(|(table, key, value)| batch.put(*table, key.clone(), value.clone()));
        let written = self.disk.borrow_mut().write([(beside(group), &batch)]);
        if written.is_err() {
            self.transfers.incoming.remove(&group);
            answer(world, self.place, 0, Some(false));
            return Ok(());
        }
        world.boundary(self.place, "after a part of a snapshot is laid beside")?;
        let incoming = self.transfers.incoming.get_mut(&group).expect("it is taken");
        (incoming.next, incoming.quiet_ticks) = (incoming.next + 1, 0);
        if last || world.has(Mutant::SnapshotCutShort) {
            self.transfers.complete.push(group);
            return self.turn(world);
        }
        answer(world, self.place, next + 1, None);
        Ok(())
    }

    /// Installs what has arrived. Asked for between turns alone: what replicas were given is then carried out.
    pub(super) fn install_snapshots(&mut self, world: &mut World) -> Result<(), Died> {
        for group in std::mem::take(&mut self.transfers.complete) {
            let Some(incoming) = self.transfers.incoming.remove(&group) else { continue };
            let Incoming { from, transfer, metadata, next, .. } = incoming;
            let installed = self.install(world, group, &metadata)?;
            let taken = Taken { transfer, next, ended: Some(installed) };
            world.send(self.place, from, Message::SnapshotTaken(taken));
        }
        Ok(())
    }

    /// Closes the replica, exchanges its rows, and opens it again. Tells whether it has what the snapshot holds.
    fn install(&mut self, world: &mut World, group: u64, metadata: &SnapshotMetadata) -> Result<bool, Died> {
        let Some(seat) = self.seats.get_mut(&group) else { return Ok(false) };
        if seat.replica.take().is_none() {
            return Ok(false);
        }
        self.out.push(Out::Stopped { group });
        // What the replica wrote last may not be safe, and whatever it is opened on it takes to be.
        let synced = self.disk.borrow_mut().sync();
        if let Err(error) = synced {
            self.fail(world, error);
            return Ok(false);
        }
        let rows = self.rows(group);
        let exchanged = install(&rows, metadata).and_then(|changes| {
            let laid = self.rows(beside(group));
            changes.map(|changes| exchange::<M>(world, changes, machine_rows::<M>(&laid)?)).transpose()
        });
        let installed = match exchanged {
            Err(error) => {
                self.stop(world, group, (error.reason != "input/output error", error.to_string()));
                return Ok(false);
            }
            Ok(None) => {
                world.tally.snapshots_of_no_use += 1;
                true
            }
            Ok(Some(changes)) => {
                let before = world.promises(&rows);
                world.boundary(self.place, "before a snapshot is exchanged for the rows")?;
                let mut gone = WriteBatch::default();
                clear::<M>(&mut gone);
                let written = self.disk.borrow_mut().write([(group, &changes), (beside(group), &gone)]);
                if written.is_ok() {
                    world.boundary(self.place, "after a snapshot is exchanged for the rows, before the sync")?;
                    let synced = self.disk.borrow_mut().sync();
                    if let Err(error) = synced {
                        self.fail(world, error);
                        return Ok(false);
                    }
                    world.boundary(self.place, "after a snapshot is installed, before anybody learns of it")?;
                    world.tally.snapshots_installed += 1;
                    let index = metadata.index();
                    world.note(self.place, "installs snapshot", group, || format!("of group {group} up to {index}"));
                    world.watch_install(group, before, &rows);
                }
                written.is_ok()
            }
        };
        self.reopen(world, group);
        Ok(installed)
    }

    /// What a transfer left behind that a process's end cut off is of no use to its next run.
    pub(super) fn remove_leftovers(&mut self, world: &mut World, group: u64) {
        let laid = machine_rows::<M>(&self.rows(beside(group)));
        if laid.is_ok_and(|rows| !rows.0.is_empty()) {
            let mut batch = WriteBatch::default();
            clear::<M>(&mut batch);
            // On a full disk they stay, and the next transfer removes them.
            self.disk.borrow_mut().write([(beside(group), &batch)]).ok();
            world.tally.snapshots_cut_off += 1;
        }
    }
}

/// The rows of a machine as they are.
fn machine_rows<M: Digested>(store: &GroupDisk) -> Result<Rows, StoreError> {
    let mut rows = Vec::new();
    for table in M::TABLES {
        rows.extend(store.scan(*table, &[], END, usize::MAX)?.into_iter().map(|(key, value)| (*table, key, value)));
    }
    Ok(Rows(rows.into()))
}

fn clear<M: Digested>(batch: &mut WriteBatch) {
    M::TABLES.iter().for_each(|table| batch.delete_range(*table, Bytes::new(), END));
}

/// Adds the exchange of the machine's rows to what installing changes of the log.
fn exchange<M: Digested>(world: &World, mut changes: WriteBatch, rows: Rows) -> Result<WriteBatch, StoreError> {
    if !world.has(Mutant::SnapshotLaidOver) {
        clear::<M>(&mut changes);
    }
    rows.0.iter().for_each(|(table, key, value)| changes.put(*table, key.clone(), value.clone()));
    Ok(changes)
}
