//! What may happen next: the protocol's steps, which happen sooner or later, and disturbances, which need not.

use crate::action::{Action, Receipt};
use crate::cluster::Cluster;
use crate::driver::{DRIVERS_ALIVE_MAX, Driver, Search};
use crate::names::{LogIndex, Mate, Shard};
use crate::obligation::{Duty, Obligation};
use crate::protocol::{Mutant, Protocol};

impl Protocol {
    /// What happens sooner or later.
    pub(crate) fn steps(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        actions.extend(self.shards().filter(|shard| !cluster.reaches(*shard)).map(Action::ShardHeals));
        for mate in self.mates().filter(|mate| cluster.reaches(self.home(*mate))) {
            let enrolment = cluster.of(mate);
            if enrolment.staged_at.is_none() || enrolment.drivers.contains(&Driver::Staging) {
                actions.push(Action::StageArrives { mate, receipt: Receipt::Arrives });
            }
            if enrolment.pending && enrolment.drivers_alive() == 0 && !self.is(Mutant::NobodySweeps) {
                actions.push(Action::SweepResumes(mate));
            }
            let is_withdrawn = enrolment.withdrawn_at.is_some()
                || (self.is(Mutant::WithdrawalAcknowledgedEarly) && self.may_be_withdrawn(cluster, mate));
            if is_withdrawn && !enrolment.withdrawal_acknowledged {
                actions.push(Action::WithdrawalAcknowledged(mate));
            }
        }
        for mate in self.mates() {
            for slot in distinct(&cluster.of(mate).drivers) {
                self.steps_of_driver(cluster, mate, slot, actions);
            }
        }
        for obligation in cluster.owed.iter() {
            let (owed_by, owed_to) = self.parties(obligation);
            if cluster.reaches(owed_to) && cluster.reaches(owed_by) {
                actions.push(Action::ObligationArrives { obligation, receipt: Receipt::Arrives });
            }
            if cluster.reaches(owed_by) && self.is(Mutant::DischargesUndelivered) {
                actions.push(Action::ObligationForgotten(obligation));
            }
        }
    }

    fn steps_of_driver(&self, cluster: &Cluster, mate: Mate, slot: usize, actions: &mut Vec<Action>) {
        match &cluster.of(mate).drivers[slot] {
            Driver::Gone | Driver::Staging => {}
            Driver::Searching(search) => self.searches(cluster, mate, slot, search, actions),
            Driver::Settling(_) | Driver::Adrift(_) => {
                if cluster.reaches(self.home(mate)) {
                    actions.push(Action::SettleArrives { mate, slot, receipt: Receipt::Arrives });
                }
            }
        }
    }

    fn searches(&self, cluster: &Cluster, mate: Mate, slot: usize, search: &Search, actions: &mut Vec<Action>) {
        let is_silent = |shard: &Shard| search.answers[shard.index()].is_none();
        let mut asked = self.shards().filter(is_silent).filter(|shard| cluster.reaches(*shard)).peekable();
        if self.is(Mutant::SilenceIsAbsence) && asked.peek().is_none() && !is_silent(&self.home(mate)) {
            actions.push(Action::SilenceCounts { mate, slot });
        }
        for shard in asked {
            let latest = self.searchable(cluster, shard);
            let earliest = if self.is(Mutant::SearchesWithoutBarrier) { LogIndex(0) } else { latest };
            let prefixes = (earliest.0..=latest.0).map(LogIndex);
            let accepted = prefixes.filter(|up_to| self.is_accepted(cluster, mate, shard, *up_to));
            actions.extend(accepted.map(|up_to| Action::ShardSearches { mate, slot, shard, up_to }));
        }
    }

    /// An answer of the home shard from before the stage cannot be true, and counts as none.
    fn is_accepted(&self, cluster: &Cluster, mate: Mate, shard: Shard, up_to: LogIndex) -> bool {
        shard != self.home(mate) || cluster.of(mate).staged_at.is_some_and(|staged_at| staged_at <= up_to)
    }

    /// The shard that owes an obligation, and the one that it owes it to.
    fn parties(&self, obligation: Obligation) -> (Shard, Shard) {
        let Obligation { duty, enrolment, other } = obligation;
        let (enrolment_shard, case_shard) = (self.home(enrolment), self.home(self.case_key(enrolment, other).0));
        match duty {
            Duty::OpenCase | Duty::MootCase => (enrolment_shard, case_shard),
            Duty::LinkCase | Duty::NoteMoot => (case_shard, enrolment_shard),
        }
    }

    /// What may happen and need not. Faults are bounded, withdrawals happen once each: disturbances end.
    pub(crate) fn disturbances(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        let faults = &cluster.faults;
        for mate in self.mates() {
            let (enrolment, is_home_reachable) = (cluster.of(mate), cluster.reaches(self.home(mate)));
            for slot in distinct(&enrolment.drivers) {
                match &enrolment.drivers[slot] {
                    Driver::Gone => {}
                    Driver::Adrift(_) => actions.push(Action::SettleLost { mate, slot }),
                    Driver::Staging | Driver::Searching(_) | Driver::Settling(_) => {
                        if faults.drivers_lost > 0 {
                            actions.push(Action::DriverLost { mate, slot });
                        }
                    }
                }
            }
            let has_room = (1..DRIVERS_ALIVE_MAX).contains(&enrolment.drivers_alive());
            if faults.drivers_raced > 0 && enrolment.pending && has_room && is_home_reachable {
                actions.push(Action::SweepRaces(mate));
            }
            if self.may_be_withdrawn(cluster, mate) && is_home_reachable {
                actions.push(Action::Withdrawn(mate));
            }
        }
        if faults.receipts_lost > 0 {
            self.losses_of_receipts(cluster, actions);
        }
        if faults.shards_cut > 0 {
            actions.extend(self.shards().filter(|shard| cluster.reaches(*shard)).map(Action::ShardCut));
        }
    }

    fn losses_of_receipts(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        let receipt = Receipt::Lost;
        for mate in self.mates().filter(|mate| cluster.reaches(self.home(*mate))) {
            let enrolment = cluster.of(mate);
            if enrolment.drivers.contains(&Driver::Staging) {
                actions.push(Action::StageArrives { mate, receipt });
            }
            let settling = |slot: &usize| matches!(enrolment.drivers[*slot], Driver::Settling(_));
            let slots = distinct(&enrolment.drivers).filter(settling);
            actions.extend(slots.map(|slot| Action::SettleArrives { mate, slot, receipt }));
        }
        let arriving = cluster.owed.iter().filter(|obligation| cluster.reaches(self.parties(*obligation).1));
        actions.extend(arriving.map(|obligation| Action::ObligationArrives { obligation, receipt }));
    }

    fn may_be_withdrawn(&self, cluster: &Cluster, mate: Mate) -> bool {
        let enrolment = cluster.of(mate);
        self.withdrawable.contains(mate) && enrolment.staged_at.is_some() && enrolment.withdrawn_at.is_none()
    }
}

/// The place of each driver, of equal ones the first: drivers are kept in order.
fn distinct(drivers: &[Driver]) -> impl Iterator<Item = usize> {
    (0..drivers.len()).filter(|slot| *slot == 0 || drivers[*slot] != drivers[*slot - 1])
}
