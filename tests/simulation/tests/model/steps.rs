//! What may happen next: the protocol's steps, and what disturbs them.
//!
//! A message that is late is a step not taken yet, one that is lost and sent again is a later one, and one that arrives
//! twice is a step taken twice. An answer counts from the moment at which the shard searched, so asking, searching and
//! answering are one step, taken at any moment after the search began.

use crate::cluster::Cluster;
use crate::driver::{Answer, DRIVERS_ALIVE_MAX, Driver, Search, Searched};
use crate::names::{LogIndex, Mate, MateSet, Shard};
use crate::obligation::{Duty, Obligation};
use crate::protocol::{Mutant, Protocol};

/// One thing that happens. `slot` is the driver's place among those of its enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The client's call reaches the home shard as a stage.
    StageArrives(Mate),
    /// The driver has the receipt of the stage, and searches.
    StageAcknowledged { mate: Mate, slot: usize },
    /// A shard searches its catalogue, which has reached `up_to`, and answers. The last answer makes the driver settle.
    ShardSearches { mate: Mate, slot: usize, shard: Shard, up_to: LogIndex },
    /// The driver waits no longer for shards that do not answer.
    SilenceCounts { mate: Mate, slot: usize },
    /// A settle reaches the home shard.
    SettleArrives { mate: Mate, slot: usize },
    /// The driver has the receipt of the settle, and replies with what is recorded.
    SettleAcknowledged { mate: Mate, slot: usize },
    /// The sweep finds a staged enrolment and searches.
    SweepResumes(Mate),
    /// An obligation's command reaches its shard, and whoever carried it out knows.
    ObligationArrives(Obligation),
    /// The shard that owed it forgets it.
    ObligationDischarged(Obligation),
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

impl Protocol {
    /// What happens sooner or later.
    pub(crate) fn steps(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        actions.extend(self.shards().filter(|shard| !cluster.reaches(*shard)).map(Action::ShardHeals));
        for mate in self.mates().filter(|mate| cluster.reaches(self.home(*mate))) {
            let enrolment = cluster.of(mate);
            if enrolment.staged_at.is_none() {
                actions.push(Action::StageArrives(mate));
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
            if cluster.reaches(owed_to) {
                actions.push(Action::ObligationArrives(obligation));
            }
            let is_acknowledged =
                cluster.acknowledged.contains(obligation) || self.is(Mutant::DischargesUndelivered);
            if cluster.reaches(owed_by) && is_acknowledged {
                actions.push(Action::ObligationDischarged(obligation));
            }
        }
    }

    fn steps_of_driver(&self, cluster: &Cluster, mate: Mate, slot: usize, actions: &mut Vec<Action>) {
        let (enrolment, home) = (cluster.of(mate), self.home(mate));
        match &enrolment.drivers[slot] {
            Driver::Gone => {}
            Driver::Staging => {
                if enrolment.staged_at.is_some() && cluster.reaches(home) {
                    actions.push(Action::StageAcknowledged { mate, slot });
                }
            }
            Driver::Searching(search) => self.searches(cluster, mate, slot, search, actions),
            Driver::Settling(verdict) => {
                if cluster.reaches(home) {
                    actions.push(Action::SettleArrives { mate, slot });
                    if !enrolment.pending || enrolment.round > verdict.round {
                        actions.push(Action::SettleAcknowledged { mate, slot });
                    }
                }
            }
            Driver::Adrift(_) => {
                if cluster.reaches(home) {
                    actions.push(Action::SettleArrives { mate, slot });
                }
            }
        }
    }

    fn searches(&self, cluster: &Cluster, mate: Mate, slot: usize, search: &Search, actions: &mut Vec<Action>) {
        let silent = self.shards().filter(|shard| search.answers[shard.index()].is_none());
        let (reachable, unreachable): (Vec<Shard>, Vec<Shard>) = silent.partition(|shard| cluster.reaches(*shard));
        for shard in &reachable {
            let latest = self.searchable(cluster, *shard);
            let earliest = if self.is(Mutant::SearchesWithoutBarrier) { LogIndex(0) } else { latest };
            let prefixes = (earliest.0..=latest.0).map(LogIndex);
            for up_to in prefixes.filter(|up_to| self.is_accepted(cluster, mate, *shard, *up_to)) {
                actions.push(Action::ShardSearches { mate, slot, shard: *shard, up_to });
            }
        }
        if self.is(Mutant::SilenceIsAbsence) && reachable.is_empty() && !unreachable.contains(&self.home(mate)) {
            actions.push(Action::SilenceCounts { mate, slot });
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

    /// What may happen and need not. Faults are bounded, so they end.
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
        if faults.shards_cut > 0 {
            actions.extend(self.shards().filter(|shard| cluster.reaches(*shard)).map(Action::ShardCut));
        }
    }

    fn may_be_withdrawn(&self, cluster: &Cluster, mate: Mate) -> bool {
        let enrolment = cluster.of(mate);
        self.withdrawable.contains(mate) && enrolment.staged_at.is_some() && enrolment.withdrawn_at.is_none()
    }

    /// Lets an action happen.
    pub(crate) fn act(&self, cluster: &mut Cluster, action: Action) {
        match action {
            Action::StageArrives(mate) => self.apply_stage(cluster, mate),
            Action::StageAcknowledged { mate, slot } => {
                let driver = if cluster.of(mate).pending { search(cluster, mate) } else { Driver::Gone };
                cluster.of_mut(mate).drive(slot, driver);
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
            Action::SettleArrives { mate, slot } => {
                let verdict = cluster.of(mate).drivers[slot].sent().copied();
                self.apply_settle(cluster, mate, verdict.expect("a settle arrives from a driver that sent one"));
            }
            Action::SettleAcknowledged { mate, slot } | Action::SettleLost { mate, slot } => {
                cluster.of_mut(mate).drive(slot, Driver::Gone);
            }
            Action::SweepResumes(mate) => {
                let driver = search(cluster, mate);
                cluster.of_mut(mate).drive_also(driver);
            }
            Action::ObligationArrives(obligation) => {
                cluster.acknowledged.add(obligation);
                self.apply_obligation(cluster, obligation);
            }
            Action::ObligationDischarged(obligation) => {
                cluster.owed.remove(obligation);
                cluster.acknowledged.remove(obligation);
            }
            Action::WithdrawalAcknowledged(mate) => cluster.of_mut(mate).withdrawal_acknowledged = true,
            Action::ShardHeals(shard) => cluster.unreachable[shard.index()] = false,
            Action::DriverLost { mate, slot } => {
                cluster.faults.drivers_lost -= 1;
                let lost = cluster.of(mate).drivers[slot].lost();
                cluster.of_mut(mate).drive(slot, lost);
            }
            Action::SweepRaces(mate) => {
                cluster.faults.drivers_raced -= 1;
                let driver = search(cluster, mate);
                cluster.of_mut(mate).drive_also(driver);
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

/// A driver that begins to search for what the home shard has on record.
fn search(cluster: &Cluster, mate: Mate) -> Driver {
    Driver::Searching(Search::begin(cluster.of(mate).round, cluster.withdrawals_acknowledged()))
}

/// The place of each driver, of equal ones the first: drivers are kept in order.
fn distinct(drivers: &[Driver]) -> impl Iterator<Item = usize> {
    (0..drivers.len()).filter(|slot| *slot == 0 || drivers[*slot] != drivers[*slot - 1])
}
