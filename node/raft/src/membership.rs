//! Who belongs to the group, and changes of that: one at a time, asked of the leader, against a known epoch. A voter is
//! replaced in two steps: between them both the old and the new majority must agree (joint consensus), so that at no moment two
//! leaders can be elected without knowing of one another.

use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};
use raft::{Error, ProgressState, RawNode, StateRole, Storage};

use crate::config::ReplicaConfig;
use crate::context::Marker;
use crate::ids::{ReplicaId, Ticket};
use crate::mutant::Mutant;

/// A change of who belongs to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new replica is sent the log, and does not count yet.
    AddLearner(ReplicaId),
    /// A learner is sent nothing more.
    RemoveLearner(ReplicaId),
    /// A learner that is caught up takes the place of a voter.
    Replace {
        /// The learner.
        add: ReplicaId,
        /// The voter. It belongs to the group no more afterwards.
        remove: ReplicaId,
    },
}

/// Why a group was not changed as asked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum MembershipError {
    /// Only the leader changes its group. Nothing was done.
    #[error("the replica does not lead its group")]
    NotLeader {
        /// Who does, as far as this replica knows.
        leader: Option<ReplicaId>,
    },
    /// The group was changed since the caller looked. Nothing was done.
    #[error("the configuration is of epoch {epoch}, not of the expected one")]
    WrongEpoch {
        /// The epoch of the group's configuration.
        epoch: u64,
    },
    /// Another change is not complete yet, or the leader is too new to know. Nothing was done; ask again.
    #[error("another change of the configuration is under way")]
    InProgress,
    /// The replica belongs to the group already. Nothing was done.
    #[error("replica {replica} belongs to the group already")]
    AlreadyMember {
        /// Which one.
        replica: ReplicaId,
    },
    /// The replica is no learner of the group. Nothing was done.
    #[error("replica {replica} is no learner of the group")]
    NotLearner {
        /// Which one.
        replica: ReplicaId,
    },
    /// The replica is no voter of the group. Nothing was done.
    #[error("replica {replica} is no voter of the group")]
    NotVoter {
        /// Which one.
        replica: ReplicaId,
    },
    /// The group has as many learners as it may have. Nothing was done.
    #[error("the group has {learners_max} learners already")]
    TooManyLearners {
        /// The limit.
        learners_max: usize,
    },
    /// The learner lacks too many entries, or was not heard of. Nothing was done; ask again.
    #[error("learner {learner} is {lag} entries behind or was not heard of")]
    NotCaughtUp {
        /// Which one.
        learner: ReplicaId,
        /// How many entries it lacks.
        lag: u64,
    },
    /// The leader itself is to be replaced: it hands over to another voter first, which is under way. Ask that one.
    #[error("leadership moves to replica {to} first")]
    LeadershipMoves {
        /// Who is to lead.
        to: ReplicaId,
    },
    /// The leader's uncommitted log is full. Nothing was done; ask again.
    #[error("too many proposals wait")]
    TooManyPending,
    /// The outcome is unknown: look at the configuration.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The replica has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// The answer for one change: the epoch of the configuration that it led to.
pub(crate) type Answer = (Ticket, Result<u64, MembershipError>);

/// The configuration, as of the entries that are applied, and the change of it that a caller here waits for.
pub(crate) struct Membership {
    replica: u64,
    conf_state: ConfState,
    epoch: u64,
    marker: Marker,
    pending: Option<Pending>,
    learners_max: usize,
    learner_lag_max: u64,
    ticks_max: u64,
}

struct Pending {
    ticket: Ticket,
    number: u64,
    deadline: u64,
    /// Its entry is applied, and the group is still between two configurations.
    joint: bool,
}

impl Membership {
    pub(crate) fn new(config: &ReplicaConfig, conf_state: ConfState, epoch: u64) -> Self {
        Self {
            replica: config.replica.get(),
            conf_state,
            epoch,
            marker: Marker::new(config.replica, config.boot_nonce),
            pending: None,
            learners_max: config.learners_max,
            learner_lag_max: config.learner_lag_max,
            ticks_max: config.membership_ticks_max,
        }
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Tells whether the replica belongs to its group, as far as it knows.
    pub(crate) fn is_member(&self) -> bool {
        names(&self.conf_state, self.replica)
    }

    /// Tells whether the replica was never told who its group is.
    pub(crate) fn is_unknown(&self) -> bool {
        self.conf_state.voters.is_empty()
    }

    pub(crate) fn is_joint(&self) -> bool {
        !self.conf_state.voters_outgoing.is_empty()
    }

    /// Tells whether the replica votes, and still will when the configuration is joint no more.
    fn stays_voter(&self) -> bool {
        self.conf_state.voters.contains(&self.replica)
    }

    /// Proposes the change. The caller is answered when it is complete.
    pub(crate) fn propose<S: Storage>(
        &mut self,
        node: &mut RawNode<S>,
        ticket: Ticket,
        change: MembershipChange,
        expected_epoch: u64,
        now: u64,
    ) -> Result<(), MembershipError> {
        if node.raft.state != StateRole::Leader {
            return Err(MembershipError::NotLeader { leader: ReplicaId::new(node.raft.leader_id) });
        }
        if expected_epoch != self.epoch {
            return Err(MembershipError::WrongEpoch { epoch: self.epoch });
        }
        // A new leader first commits an entry of its own term: a change that its predecessor left is then known.
        let knows_all = node.raft.commit_to_current_term() && !node.raft.has_pending_conf();
        if self.pending.is_some() || self.is_joint() || !knows_all || node.raft.lead_transferee.is_some() {
            return Err(MembershipError::InProgress);
        }
        let change = self.conf_change(node, change)?;
        let (number, context) = self.marker.mark();
        match node.propose_conf_change(context, change) {
            Ok(()) => {}
            Err(Error::ProposalDropped) => return Err(MembershipError::TooManyPending),
            Err(_) => return Err(MembershipError::NotLeader { leader: None }),
        }
        self.pending = Some(Pending { ticket, number, deadline: now.saturating_add(self.ticks_max), joint: false });
        Ok(())
    }

    fn conf_change<S: Storage>(
        &self,
        node: &mut RawNode<S>,
        change: MembershipChange,
    ) -> Result<ConfChangeV2, MembershipError> {
        let is_learner = |replica: ReplicaId| self.conf_state.learners.contains(&replica.get());
        match change {
            MembershipChange::AddLearner(replica) if names(&self.conf_state, replica.get()) => {
                Err(MembershipError::AlreadyMember { replica })
            }
            MembershipChange::AddLearner(_) if self.conf_state.learners.len() >= self.learners_max => {
                Err(MembershipError::TooManyLearners { learners_max: self.learners_max })
            }
            MembershipChange::AddLearner(replica) => Ok(in_one_step(single(ConfChangeType::AddLearnerNode, replica))),
            MembershipChange::RemoveLearner(replica) if !is_learner(replica) => {
                Err(MembershipError::NotLearner { replica })
            }
            MembershipChange::RemoveLearner(replica) => Ok(in_one_step(single(ConfChangeType::RemoveNode, replica))),
            MembershipChange::Replace { add, .. } if !is_learner(add) => {
                Err(MembershipError::NotLearner { replica: add })
            }
            MembershipChange::Replace { remove, .. } if !self.conf_state.voters.contains(&remove.get()) => {
                Err(MembershipError::NotVoter { replica: remove })
            }
            MembershipChange::Replace { add, remove } => self.replace(node, add, remove),
        }
    }

    fn replace<S: Storage>(
        &self,
        node: &mut RawNode<S>,
        add: ReplicaId,
        remove: ReplicaId,
    ) -> Result<ConfChangeV2, MembershipError> {
        let last_index = node.raft.raft_log.last_index();
        // One that has acknowledged nothing to this leader lacks everything, however little that is.
        let heard = node.raft.prs().get(add.get()).filter(|learner| has_acknowledged(learner));
        let lag = last_index.saturating_sub(heard.map_or(0, |learner| learner.matched));
        let caught_up = heard.is_some() && lag <= self.learner_lag_max;
        if !caught_up && !Mutant::LearnerNotCaughtUp.is_chosen() {
            return Err(MembershipError::NotCaughtUp { learner: add, lag });
        }
        if remove.get() == self.replica
            && let Some(to) = self.successor(node)
        {
            node.transfer_leader(to.get());
            return Err(MembershipError::LeadershipMoves { to });
        }
        Ok(ConfChangeV2 {
            // Not left by raft-rs itself: it forgets to under a new leader, and panics in one that leaves its own group.
            transition: ConfChangeTransition::Explicit as i32,
            changes: vec![single(ConfChangeType::AddNode, add), single(ConfChangeType::RemoveNode, remove)],
            ..ConfChangeV2::default()
        })
    }

    /// Returns the voter to come that is furthest and was heard of, other than this replica.
    fn successor<S: Storage>(&self, node: &RawNode<S>) -> Option<ReplicaId> {
        let others = self.conf_state.voters.iter().filter(|voter| **voter != self.replica);
        let followed = others.filter_map(|voter| {
            let progress = node.raft.prs().get(*voter)?;
            is_followed(progress).then_some((progress.matched, *voter))
        });
        followed.max().and_then(|(_, voter)| ReplicaId::new(voter))
    }

    /// Leads a group that is between two configurations on into the second: the leader proposes it, after it has handed over
    /// where it will not belong to the group itself.
    pub(crate) fn leave_joint<S: Storage>(&self, node: &mut RawNode<S>) {
        let raft = &node.raft;
        let may_propose = raft.commit_to_current_term() && !raft.has_pending_conf() && raft.lead_transferee.is_none();
        if raft.state != StateRole::Leader || !self.is_joint() || !may_propose {
            return;
        }
        if self.stays_voter() {
            // Refused only where leadership moves, which was just seen not to be so; else a later tick tries again.
            node.propose_conf_change(Vec::new(), ConfChangeV2::default()).ok();
        } else if let Some(to) = self.successor(node) {
            node.transfer_leader(to.get());
        }
    }

    /// The entry that carries `context` is applied, and the configuration is this one. Tells whether it is another one than
    /// before, which then has the next epoch.
    pub(crate) fn applied(&mut self, context: &[u8], conf_state: ConfState) -> (bool, Option<Answer>) {
        let changed = conf_state != self.conf_state;
        self.epoch += u64::from(changed);
        self.conf_state = conf_state;
        let number = self.marker.number(context);
        let joint = self.is_joint();
        let answer = match &mut self.pending {
            Some(pending) if pending.joint || number == Some(pending.number) => {
                pending.joint = joint;
                (!joint).then_some((pending.ticket, Ok(self.epoch)))
            }
            Some(_) | None => None,
        };
        if answer.is_some() {
            self.pending = None;
        }
        (changed, answer)
    }

    /// Returns the caller that waited too long.
    pub(crate) fn expire(&mut self, now: u64) -> Option<Answer> {
        let expired = self.pending.take_if(|pending| pending.deadline <= now);
        expired.map(|pending| (pending.ticket, Err(MembershipError::Unknown)))
    }

    /// Returns the caller that waits.
    pub(crate) fn take(&mut self) -> Option<Answer> {
        self.pending.take().map(|pending| (pending.ticket, Err(MembershipError::Unknown)))
    }
}

/// Tells whether a follower takes entries as they come, and was heard of.
fn is_followed(progress: &raft::Progress) -> bool {
    progress.recent_active && progress.state == ProgressState::Replicate
}

/// Tells whether a learner has entries of the leader's log, was heard of, and waits for no snapshot. It need not be sent entries as they
/// come yet: after a snapshot that begins with the next one, which may be long in coming.
fn has_acknowledged(progress: &raft::Progress) -> bool {
    progress.recent_active && progress.matched > 0 && progress.state != ProgressState::Snapshot
}

fn single(change_type: ConfChangeType, replica: ReplicaId) -> ConfChangeSingle {
    ConfChangeSingle { change_type: change_type as i32, node_id: replica.get() }
}

/// A change that leaves the voters as they are needs no joint configuration.
fn in_one_step(change: ConfChangeSingle) -> ConfChangeV2 {
    ConfChangeV2 { changes: vec![change], ..ConfChangeV2::default() }
}

/// Tells whether a configuration names a replica, in whatever part.
pub(crate) fn names(conf_state: &ConfState, replica: u64) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = conf_state;
    [voters, learners, voters_outgoing, learners_next].into_iter().any(|replicas| replicas.contains(&replica))
}

/// Returns the replicas of a part of a configuration, ascending.
pub(crate) fn ids(replicas: &[u64]) -> Vec<ReplicaId> {
    let mut ids: Vec<ReplicaId> = replicas.iter().copied().filter_map(ReplicaId::new).collect();
    ids.sort_unstable();
    ids
}

/// Returns the configuration with each part ascending: raft-rs lists them in a hash map's order.
pub(crate) fn sorted(mut conf_state: ConfState) -> ConfState {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = &mut conf_state;
    [voters, learners, voters_outgoing, learners_next].into_iter().for_each(|replicas| replicas.sort_unstable());
    conf_state
}
