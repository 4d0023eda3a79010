//! The model itself: its size, the faults it allows, and the mutant that it may be.

use stateright::{Model, Property};

use crate::action::Action;
use crate::cluster::{Cluster, Enrolment, Faults};
use crate::driver::{DRIVERS_MAX, Driver, Search};
use crate::names::{MATES_MAX, Mate, MateSet, SHARDS_MAX, Shard};
use crate::obligation::Obligations;
use crate::properties;

/// A model to be checked.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    /// The home shard of each applicant.
    pub(crate) homes: Vec<Shard>,
    /// The number of shards.
    pub(crate) shards: u8,
    /// The most faults of each kind.
    pub(crate) faults: Faults,
    /// Who may be withdrawn. While nobody may, cases are not linked: links only serve to make cases moot.
    pub(crate) withdrawable: MateSet,
    /// The rule that is broken.
    pub(crate) mutant: Option<Mutant>,
}

/// A protocol with one rule broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A driver searches while its stage is under way.
    SearchesBeforeStaging,
    /// A shard answers from any prefix of its log, without a barrier.
    SearchesWithoutBarrier,
    /// A shard that does not answer counts as one without mates.
    SilenceIsAbsence,
    /// A settle replaces what is recorded.
    LastSettleWins,
    /// An obligation is discharged and its command never delivered.
    DischargesUndelivered,
    /// The case of a pair has the opener's id first.
    OrderedCaseKeys,
    /// A withdrawal is acknowledged before it is applied.
    WithdrawalAcknowledgedEarly,
    /// A moot case is told to nobody.
    MootnessUntold,
    /// Nobody resumes what a lost driver left behind.
    NobodySweeps,
}

impl Protocol {
    /// The applicants.
    pub(crate) fn mates(&self) -> impl Iterator<Item = Mate> + use<> {
        (0..self.homes.len() as u8).map(Mate)
    }

    /// The shards.
    pub(crate) fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.shards).map(Shard)
    }

    /// Where an applicant is staged and settled.
    pub(crate) fn home(&self, mate: Mate) -> Shard {
        self.homes[mate.index()]
    }

    /// Whether it is this mutant.
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether enrolments are told of their cases.
    pub(crate) fn links_cases(&self) -> bool {
        !self.withdrawable.is_empty()
    }

    /// A client has called for each applicant, on a coordinator of its own.
    fn first_driver(&self) -> Driver {
        if self.is(Mutant::SearchesBeforeStaging) {
            Driver::Searching(Search::begin(1, MateSet::NONE))
        } else {
            Driver::Staging
        }
    }
}

impl Model for Protocol {
    type State = Cluster;
    type Action = Action;

    fn init_states(&self) -> Vec<Cluster> {
        assert!(self.homes.len() <= MATES_MAX && usize::from(self.shards) <= SHARDS_MAX, "the model is too large");
        assert!(usize::from(self.faults.drivers_lost) + 2 <= DRIVERS_MAX, "no room for so many lost drivers");
        let mut enrolments = [Enrolment::NONE; MATES_MAX];
        for mate in self.mates() {
            enrolments[mate.index()].drive_also(self.first_driver());
        }
        vec![Cluster {
            enrolments,
            cases: Default::default(),
            owed: Obligations::default(),
            unreachable: [false; SHARDS_MAX],
            faults: self.faults,
        }]
    }

    fn actions(&self, cluster: &Cluster, actions: &mut Vec<Action>) {
        self.disturbances(cluster, actions);
        self.steps(cluster, actions);
    }

    fn next_state(&self, cluster: &Cluster, action: Action) -> Option<Cluster> {
        let mut next = *cluster;
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
