//! Replicas that move from one process to another, and replicas that take the place of those whose volume is gone. An operator
//! walks each through its steps: a replica without rows, a learner, a voter in place of another, which is then removed. What a
//! group's configuration is, its replicas alone know; the operator looks, asks and tries again.

use semel_raft::{MembershipChange, ReplicaId, ReplicaStatus, Role};

use crate::cluster::Cluster;
use crate::coordinator::METADATA_GROUP;
use crate::nemesis::Fault;
use crate::world::{Event, Place};

/// How often the operator looks, in microseconds.
const LOOK_MICROS: (u64, u64) = (50_000, 400_000);
/// Moves that one run may have under way, so that faults find groups in the middle of one and others at rest.
const MOVES_MAX: usize = 6;

/// A replica that is to take the place of another.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) group: u64,
    add: ReplicaId,
    to: Place,
    remove: ReplicaId,
    /// Whether the new replica's first rows are written.
    seated: bool,
    aim: Aim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// The move is to be completed.
    Replace,
    /// The operator has changed its mind.
    GiveUp,
    /// The volume that the new replica was on is gone: another replica, then.
    StartAnew,
}

/// What a look at a group leads to.
enum Step {
    Wait,
    Ask(MembershipChange),
    Done,
    GivenUp,
    /// The new replica is gone before it was a voter.
    GoneBefore,
    /// The new replica is gone after it became one.
    GoneAfter,
}

impl Move {
    fn step(&mut self, status: &ReplicaStatus) -> Step {
        let votes = status.voters.contains(&self.add) || status.voters_outgoing.contains(&self.add);
        let learns = status.learners.contains(&self.add);
        let joint = !status.voters_outgoing.is_empty();
        // What is not in the log of a leader that has applied all of it is nowhere on its way.
        let settled = status.applied == status.last_index;
        match self.aim {
            Aim::Replace if votes && !joint && !status.voters.contains(&self.remove) => Step::Done,
            Aim::Replace if votes => Step::Wait,
            Aim::Replace if learns => Step::Ask(MembershipChange::Replace { add: self.add, remove: self.remove }),
            Aim::Replace => Step::Ask(MembershipChange::AddLearner(self.add)),
            Aim::GiveUp | Aim::StartAnew if learns => Step::Ask(MembershipChange::RemoveLearner(self.add)),
            Aim::GiveUp if votes => {
                self.aim = Aim::Replace;
                Step::Wait
            }
            Aim::StartAnew if votes && joint => Step::Wait,
            Aim::StartAnew if votes => Step::GoneAfter,
            Aim::GiveUp if settled => Step::GivenUp,
            Aim::StartAnew if settled => Step::GoneBefore,
            Aim::GiveUp | Aim::StartAnew => Step::Wait,
        }
    }
}

impl Cluster {
    /// Moves a replica of some shard to a node that has none, if there is such a node.
    pub(crate) fn begin_move(&mut self) {
        let group = self.world.chance.below(u64::from(self.shards.get()));
        if self.moves.len() >= MOVES_MAX || self.moves.iter().any(|one| one.group == group) {
            return;
        }
        let Some(to) = self.spare_place(group) else { return };
        let replicas = self.world.replicas_of(group);
        let (remove, _) = *self.world.chance.pick(&replicas);
        self.plan_move(group, remove, to);
        if self.world.chance.one_in(6) {
            self.moves.last_mut().expect("just planned").aim = Aim::GiveUp;
        }
    }

    /// The replicas on a process whose volume is gone are replaced, there or elsewhere.
    pub(crate) fn replace_lost(&mut self, place: Place) {
        for one in self.moves.iter_mut().filter(|one| one.to == place) {
            one.aim = Aim::StartAnew;
        }
        let new: Vec<ReplicaId> = self.moves.iter().map(|one| one.add).collect();
        for (group, replica) in self.world.replicas_at(place) {
            if !new.contains(&replica) && self.moves.iter().all(|one| one.remove != replica) {
                let elsewhere = if self.world.chance.one_in(3) { self.spare_place(group) } else { None };
                self.plan_move(group, replica, elsewhere.unwrap_or(place));
            }
        }
    }

    fn plan_move(&mut self, group: u64, remove: ReplicaId, to: Place) {
        let add = self.world.new_replica();
        self.world.note(to, "move planned", add.get(), || format!("of group {group}, in place of {remove}"));
        self.moves.push(Move { group, add, to, remove, seated: false, aim: Aim::Replace });
    }

    /// A node without a replica of the group, and to which none is on its way.
    fn spare_place(&mut self, group: u64) -> Option<Place> {
        if group == METADATA_GROUP {
            return None;
        }
        let taken: Vec<Place> = self.world.replicas_of(group).into_iter().map(|(_, place)| place).collect();
        let comes = |place: Place| self.moves.iter().any(|one| one.group == group && one.to == place);
        let spare = self.nodes.iter().map(|node| node.place).filter(|place| !taken.contains(place) && !comes(*place));
        let spare: Vec<Place> = spare.collect();
        (!spare.is_empty()).then(|| *self.world.chance.pick(&spare))
    }

    /// Takes each move a step further, one in a group at a time.
    pub(crate) fn shepherd(&mut self) {
        let after = self.world.chance.between(LOOK_MICROS.0..=LOOK_MICROS.1);
        self.world.after(after, Event::Fault(Fault::Shepherd));
        let mut groups = Vec::new();
        for position in (0..self.moves.len()).rev() {
            let first = self.moves.iter().position(|one| one.group == self.moves[position].group);
            if first == Some(position) && !groups.contains(&self.moves[position].group) {
                groups.push(self.moves[position].group);
                self.step_move(position);
            }
        }
    }

    fn step_move(&mut self, position: usize) {
        let one = self.moves[position].clone();
        if !one.seated && one.aim != Aim::StartAnew {
            // The old replica of a place must be gone before a new one comes there, and known to be.
            let occupied = self.is_occupied(one.to, one.group);
            self.moves[position].seated = !occupied && self.seat_learner(one.to, one.group, one.add);
            return;
        }
        let Some(status) = self.leader_status(one.group) else { return };
        match self.moves[position].step(&status) {
            Step::Wait => {}
            Step::Ask(change) => self.ask_leaders(one.group, change, status.epoch),
            Step::Done => {
                if self.retire(one.group, one.remove) {
                    self.world.tally.replicas_replaced += 1;
                    self.moves.remove(position);
                }
            }
            Step::GivenUp => {
                if self.retire(one.group, one.add) {
                    self.world.tally.moves_given_up += 1;
                    self.moves.remove(position);
                }
            }
            Step::GoneBefore => {
                self.world.forget_replica(one.group, one.add);
                self.moves.remove(position);
                self.plan_move(one.group, one.remove, one.to);
            }
            Step::GoneAfter => {
                // The old replica is out all the same.
                if self.retire(one.group, one.remove) {
                    self.moves.remove(position);
                    self.plan_move(one.group, one.add, one.to);
                }
            }
        }
    }

    /// The status of the group's leader in the latest term that anybody who runs knows of.
    fn leader_status(&self, group: u64) -> Option<ReplicaStatus> {
        let statuses: Vec<ReplicaStatus> = self.places().into_iter().filter_map(|at| self.status(at, group)).collect();
        let term = statuses.iter().map(|status| status.term).max()?;
        statuses.into_iter().find(|status| status.role == Role::Leader && status.term == term)
    }

    /// Asks every replica that takes itself for the leader.
    fn ask_leaders(&mut self, group: u64, change: MembershipChange, epoch: u64) {
        for place in self.places() {
            let world = &mut self.world;
            let died = match place {
                Place::Node(node) => {
                    self.nodes[node].run.as_mut().map(|run| run.change_membership(world, group, change, epoch))
                }
                Place::Coordinator(coordinator) => {
                    let run = self.coordinators[coordinator].run.as_mut();
                    run.map(|run| run.change_membership(world, group, change, epoch))
                }
                Place::Client => None,
            };
            self.bury(place, died);
        }
    }

    /// Writes the first rows of a replica that joins a group. Tells whether the disk took them.
    fn seat_learner(&mut self, place: Place, group: u64, replica: ReplicaId) -> bool {
        let world = &mut self.world;
        let seated = match place {
            Place::Node(node) => self.nodes[node].join_group(world, self.shards, group, replica),
            Place::Coordinator(coordinator) => self.coordinators[coordinator].join_group(world, replica),
            Place::Client => false,
        };
        if seated {
            world.place_replica(group, replica, place);
            world.note(place, "joins", replica.get(), || format!("group {group}"));
        }
        seated
    }

    /// Removes a replica that its group counts among its own no more, with its rows. Tells whether nothing is left of it.
    fn retire(&mut self, group: u64, replica: ReplicaId) -> bool {
        let retired = match self.world.directory.get(&(group, replica)) {
            Some(Place::Node(node)) => self.nodes[*node].leave_group(group, replica),
            Some(Place::Coordinator(_) | Place::Client) | None => true,
        };
        if retired {
            self.world.forget_replica(group, replica);
        }
        retired
    }

    fn is_occupied(&self, place: Place, group: u64) -> bool {
        match place {
            Place::Node(node) => self.nodes[node].wiped || self.nodes[node].holds(group),
            Place::Coordinator(coordinator) => !self.coordinators[coordinator].is_empty,
            Place::Client => true,
        }
    }

    fn status(&self, place: Place, group: u64) -> Option<ReplicaStatus> {
        match place {
            Place::Node(node) => Some(self.nodes[node].run.as_ref()?.host.replica(group)?.status()),
            Place::Coordinator(coordinator) => {
                Some(self.coordinators[coordinator].run.as_ref()?.host.replica(group)?.status())
            }
            Place::Client => None,
        }
    }
}
