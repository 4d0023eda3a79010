//! One thing that happens, and what it changes.
//!
//! A message that is late is an action not taken yet. An answer counts from the moment at which the shard searched, so
//! asking, searching and answering are one action, taken at any moment after the search began; a search that is lost
//! has changed nothing. A command and its receipt are one action too: what a driver does with a receipt it may as well
//! do later. A receipt that is lost, however, is asked for again: the command then arrives twice, with anything in
//! between.

use crate::cluster::Cluster;
use crate::driver::{Answer, Driver, Search, Searched};
use crate::names::{LogIndex, Mate, MateSet, Shard};
use crate::obligation::Obligation;
use crate::protocol::Protocol;

/// One thing that happens. `slot` is the driver's place among those of its enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The client's call reaches the home shard as a stage. The driver that has the receipt searches.
    StageArrives { mate: Mate, receipt: Receipt },
    /// A shard searches its catalogue, which has reached `up_to`, and answers. The last answer makes the driver settle.
    ShardSearches { mate: Mate, slot: usize, shard: Shard, up_to: LogIndex },
    /// The driver waits no longer for shards that do not answer.
    SilenceCounts { mate: Mate, slot: usize },
    /// A settle reaches the home shard. The driver that has the receipt replies with what is recorded.
    SettleArrives { mate: Mate, slot: usize, receipt: Receipt },
    /// The sweep finds a staged enrolment and searches.
    SweepResumes(Mate),
    /// An obligation's command reaches its shard. With the receipt, the shard that owes it discharges it.
    ObligationArrives { obligation: Obligation, receipt: Receipt },
    /// An obligation is discharged, and its command arrives nowhere.
    ObligationForgotten(Obligation),
    /// Whoever withdrew the enrolment knows.
    WithdrawalAcknowledged(Mate),
    /// A shard is reachable again.
    ShardHeals(Shard),
    /// A driver dies, or gives up. A settle that it has sent stays under way.
    DriverLost { mate: Mate, slot: usize },
    /// A settle under way never arrives.
    SettleLost { mate: Mate, slot: usize },
    /// The sweep resumes what another driver is at.
    SweepRaces(Mate),
    /// Nobody reaches a shard.
    ShardCut(Shard),
    /// An enrolment is withdrawn.
    Withdrawn(Mate),
}

/// What becomes of the receipt of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Whoever waits for it has it.
    Arrives,
    /// Nobody has it, and the command is sent again.
    Lost,
}

impl Protocol {
    /// Lets an action happen.
    pub(crate) fn act(&self, cluster: &mut Cluster, action: Action) {
        match action {
            Action::StageArrives { mate, receipt } => {
                self.apply_stage(cluster, mate);
                stage_answered(cluster, mate, receipt);
            }
            Action::ShardSearches { mate, slot, shard, up_to } => {
                let searched =
                    if cluster.of(mate).staged_at.is_some() { Searched::AfterStage } else { Searched::BeforeStage };
                let found = self.visible(cluster, shard, up_to).without(mate);
                self.answered(cluster, mate, slot, &[shard], Answer { found, searched });
            }
            Action::SilenceCounts { mate, slot } => {
                let silent: Vec<Shard> = self.shards().filter(|shard| !cluster.reaches(*shard)).collect();
                let nothing = Answer { found: MateSet::NONE, searched: Searched::Never };
                self.answered(cluster, mate, slot, &silent, nothing);
            }
            Action::SettleArrives { mate, slot, receipt } => {
                let verdict = cluster.of(mate).drivers[slot].sent().copied();
                self.apply_settle(cluster, mate, verdict.expect("a settle arrives from a driver that sent one"));
                match receipt {
                    Receipt::Arrives => cluster.of_mut(mate).drive(slot, Driver::Gone),
                    Receipt::Lost => cluster.faults.receipts_lost -= 1,
                }
            }
            Action::SettleLost { mate, slot } => cluster.of_mut(mate).drive(slot, Driver::Gone),
            Action::SweepResumes(mate) => {
                let also = search(cluster, mate);
                cluster.of_mut(mate).drive_also(also);
            }
            Action::ObligationArrives { obligation, receipt } => {
                // Removed first: what it does may be owed anew.
                match receipt {
                    Receipt::Arrives => cluster.owed.remove(obligation),
                    Receipt::Lost => cluster.faults.receipts_lost -= 1,
                }
                self.apply_obligation(cluster, obligation);
            }
            Action::ObligationForgotten(obligation) => cluster.owed.remove(obligation),
            Action::WithdrawalAcknowledged(mate) => cluster.of_mut(mate).withdrawal_acknowledged = true,
            Action::ShardHeals(shard) => cluster.unreachable[shard.index()] = false,
            Action::DriverLost { mate, slot } => {
                cluster.faults.drivers_lost -= 1;
                let lost = cluster.of(mate).drivers[slot].lost();
                cluster.of_mut(mate).drive(slot, lost);
            }
            Action::SweepRaces(mate) => {
                cluster.faults.drivers_raced -= 1;
                let also = search(cluster, mate);
                cluster.of_mut(mate).drive_also(also);
            }
            Action::ShardCut(shard) => {
                cluster.faults.shards_cut -= 1;
                cluster.unreachable[shard.index()] = true;
            }
            Action::Withdrawn(mate) => self.apply_withdraw(cluster, mate),
        }
    }

    fn answered(&self, cluster: &mut Cluster, mate: Mate, slot: usize, shards: &[Shard], answer: Answer) {
        let Driver::Searching(mut search) = cluster.of(mate).drivers[slot] else {
            panic!("only a search is answered");
        };
        for shard in shards {
            search.answers[shard.index()].get_or_insert(answer);
        }
        let driver = match search.verdict(usize::from(self.shards)) {
            Some(verdict) => Driver::Settling(verdict),
            None => Driver::Searching(search),
        };
        cluster.of_mut(mate).drive(slot, driver);
    }
}

/// The driver that waits for the receipt of the stage, if there is one, searches for what is on record.
fn stage_answered(cluster: &mut Cluster, mate: Mate, receipt: Receipt) {
    match receipt {
        Receipt::Arrives => {
            let driver = if cluster.of(mate).pending { search(cluster, mate) } else { Driver::Gone };
            let enrolment = cluster.of_mut(mate);
            if let Some(slot) = enrolment.drivers.iter().position(|driver| *driver == Driver::Staging) {
                enrolment.drive(slot, driver);
            }
        }
        Receipt::Lost => cluster.faults.receipts_lost -= 1,
    }
}

/// A driver that begins to search for what the home shard has on record.
fn search(cluster: &Cluster, mate: Mate) -> Driver {
    Driver::Searching(Search::begin(cluster.of(mate).round, cluster.withdrawals_acknowledged()))
}
