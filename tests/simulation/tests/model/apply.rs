//! What a shard does with a command: the handlers of `semel-shard` without their rows.
//!
//! Every handler looks at what is recorded before it changes anything, so that a command may arrive more than once.

use crate::cluster::{Cluster, Enrolment};
use crate::driver::{Searched, Verdict};
use crate::names::{LogIndex, Mate, MateSet, Shard};
use crate::obligation::{Duty, Obligation};
use crate::protocol::{Mutant, Protocol};

impl Protocol {
    /// Records an enrolment, visible to every search from this entry on.
    pub(crate) fn apply_stage(&self, cluster: &mut Cluster, mate: Mate) {
        let index = self.searchable(cluster, self.home(mate)).next();
        let enrolment = cluster.of_mut(mate);
        if enrolment.staged_at.is_none() {
            (enrolment.staged_at, enrolment.round, enrolment.pending) = (Some(index), 1, true);
        }
    }

    /// Records a verdict if the enrolment waits for it, and owes a case for each candidate. Otherwise nothing changes.
    pub(crate) fn apply_settle(&self, cluster: &mut Cluster, mate: Mate, verdict: Verdict) {
        let seen = verdict.coverage[self.home(mate).index()];
        assert_eq!(seen, Searched::AfterStage, "drivers refuse an answer of the home shard from before the stage");
        let enrolment = cluster.of_mut(mate);
        let waits = enrolment.pending && enrolment.round == verdict.round;
        let replaces = self.is(Mutant::LastSettleWins) && enrolment.settled().is_some();
        if !waits && !replaces {
            return;
        }
        if enrolment.verdict_first.is_none_or(|first| first.round < verdict.round) {
            enrolment.verdict_first = Some(verdict);
        }
        enrolment.verdict = Some(verdict);
        enrolment.pending = false;
        for other in verdict.candidates.iter() {
            cluster.owed.add(Obligation { duty: Duty::OpenCase, enrolment: mate, other });
        }
    }

    /// Hides an enrolment from every search from this entry on, and begins to make its cases moot.
    pub(crate) fn apply_withdraw(&self, cluster: &mut Cluster, mate: Mate) {
        let index = self.searchable(cluster, self.home(mate)).next();
        let enrolment = cluster.of_mut(mate);
        if enrolment.withdrawn_at.is_some() {
            return;
        }
        (enrolment.withdrawn_at, enrolment.pending) = (Some(index), false);
        let cases = std::mem::take(&mut enrolment.cases_open);
        enrolment.cases_moot = enrolment.cases_moot.union(cases);
        for other in cases.iter() {
            cluster.owed.add(Obligation { duty: Duty::MootCase, enrolment: mate, other });
        }
    }

    /// Does what an obligation asks for.
    pub(crate) fn apply_obligation(&self, cluster: &mut Cluster, obligation: Obligation) {
        let Obligation { duty, enrolment, other } = obligation;
        match duty {
            Duty::OpenCase => self.open_case(cluster, enrolment, other),
            Duty::LinkCase => link_case(cluster, enrolment, other),
            Duty::MootCase => self.moot_case(cluster, enrolment, other),
            Duty::NoteMoot => note_moot(cluster, enrolment, other),
        }
    }

    fn open_case(&self, cluster: &mut Cluster, opened_by: Mate, candidate: Mate) {
        let (first, second) = self.case_key(opened_by, candidate);
        let case = &mut cluster.cases[first.index()][second.index()];
        if case.opened_by.contains(opened_by) {
            return;
        }
        let (is_new, moot) = (case.opened_by.is_empty(), case.moot);
        case.opened_by = case.opened_by.with(opened_by);
        if is_new && self.links_cases() {
            cluster.owed.add(Obligation { duty: Duty::LinkCase, enrolment: opened_by, other: candidate });
            cluster.owed.add(Obligation { duty: Duty::LinkCase, enrolment: candidate, other: opened_by });
        }
        // The opener was told that the case is moot before its verdict named the candidate: it could not weigh it then.
        if let Some(withdrawn) = moot.filter(|withdrawn| *withdrawn != opened_by) {
            cluster.owed.add(Obligation { duty: Duty::NoteMoot, enrolment: opened_by, other: withdrawn });
        }
    }

    fn moot_case(&self, cluster: &mut Cluster, withdrawn: Mate, other: Mate) {
        let (first, second) = self.case_key(withdrawn, other);
        let case = &mut cluster.cases[first.index()][second.index()];
        if !case.opened_by.is_empty() && case.moot.is_none() {
            case.moot = Some(withdrawn);
            if self.is(Mutant::MootnessUntold) {
                return;
            }
            cluster.owed.add(Obligation { duty: Duty::NoteMoot, enrolment: other, other: withdrawn });
        }
    }

    /// Where the case of a pair is, whoever names whom.
    pub(crate) fn case_key(&self, opened_by: Mate, candidate: Mate) -> (Mate, Mate) {
        if self.is(Mutant::OrderedCaseKeys) {
            (opened_by, candidate)
        } else {
            (opened_by.min(candidate), opened_by.max(candidate))
        }
    }

    /// The last entry of the shard's log that changed what a search sees; 0 in an empty log.
    pub(crate) fn searchable(&self, cluster: &Cluster, shard: Shard) -> LogIndex {
        let enrolments = self.mates().filter(|mate| self.home(*mate) == shard).map(|mate| cluster.of(mate));
        let entries = enrolments.flat_map(|enrolment| [enrolment.staged_at, enrolment.withdrawn_at]);
        entries.flatten().max().unwrap_or(LogIndex(0))
    }

    /// Those that a search of the shard sees, whose catalogue has taken in its log up to this entry.
    pub(crate) fn visible(&self, cluster: &Cluster, shard: Shard, up_to: LogIndex) -> MateSet {
        let reached = |index: Option<LogIndex>| index.is_some_and(|index| index <= up_to);
        let is_visible = |enrolment: &Enrolment| reached(enrolment.staged_at) && !reached(enrolment.withdrawn_at);
        self.mates().filter(|mate| self.home(*mate) == shard && is_visible(cluster.of(*mate))).collect()
    }
}

/// Notes a case with one of its enrolments; a withdrawn one answers by making the case moot.
fn link_case(cluster: &mut Cluster, mate: Mate, other: Mate) {
    let enrolment = cluster.of_mut(mate);
    if enrolment.cases_open.contains(other) || enrolment.cases_moot.contains(other) {
        return;
    }
    if enrolment.withdrawn_at.is_some() {
        enrolment.cases_moot = enrolment.cases_moot.with(other);
        cluster.owed.add(Obligation { duty: Duty::MootCase, enrolment: mate, other });
    } else {
        enrolment.cases_open = enrolment.cases_open.with(other);
    }
}

/// Notes that a case is moot. If that leaves a possible duplicate without any case to look at, it is staged anew.
fn note_moot(cluster: &mut Cluster, mate: Mate, withdrawn: Mate) {
    let enrolment = cluster.of_mut(mate);
    enrolment.cases_open = enrolment.cases_open.without(withdrawn);
    enrolment.cases_moot = enrolment.cases_moot.with(withdrawn);
    let Some(verdict) = enrolment.settled() else { return };
    let all_moot = verdict.candidates.iter().all(|candidate| enrolment.cases_moot.contains(candidate));
    if !verdict.candidates.is_empty() && enrolment.cases_open.is_empty() && all_moot {
        enrolment.round += 1;
        enrolment.pending = true;
    }
}
