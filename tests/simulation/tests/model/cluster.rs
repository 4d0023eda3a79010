//! The state of the model: what the shards have recorded, what the drivers are at, which faults may still come.

use crate::driver::{DRIVERS_MAX, Driver, Verdict};
use crate::names::{LogIndex, MATES_MAX, Mate, MateSet, SHARDS_MAX, Shard};
use crate::obligation::Obligations;

/// The whole cluster at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Cluster {
    /// By applicant; those beyond the model's applicants stay as they begin.
    pub(crate) enrolments: [Enrolment; MATES_MAX],
    /// By key: the case of a pair is at its smaller id, then its larger.
    pub(crate) cases: [[Case; MATES_MAX]; MATES_MAX],
    /// Committed and not discharged yet.
    pub(crate) owed: Obligations,
    /// By shard: whether a partition keeps everybody away from it.
    pub(crate) unreachable: [bool; SHARDS_MAX],
    /// The faults that may still come.
    pub(crate) faults: Faults,
}

/// An enrolment as its home shard records it, and its drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Enrolment {
    /// The log index of its stage.
    pub(crate) staged_at: Option<LogIndex>,
    /// The log index of its withdrawal.
    pub(crate) withdrawn_at: Option<LogIndex>,
    /// Whether whoever withdrew it knows.
    pub(crate) withdrawal_acknowledged: bool,
    /// How often it was staged.
    pub(crate) round: u8,
    /// Whether it waits for the verdict of its round.
    pub(crate) pending: bool,
    /// The verdict of the latest settle.
    pub(crate) verdict: Option<Verdict>,
    /// The first verdict that was recorded in that round. The protocol does not read it.
    pub(crate) verdict_first: Option<Verdict>,
    /// The enrolments with which it has an open case.
    pub(crate) cases_open: MateSet,
    /// The enrolments with which it has a moot case.
    pub(crate) cases_moot: MateSet,
    /// In order, so that states which differ in who drives alone are one.
    pub(crate) drivers: [Driver; DRIVERS_MAX],
}

/// A case, in the shard of the first id of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Case {
    /// The enrolments whose verdicts named the other; none, while there is no case.
    pub(crate) opened_by: MateSet,
    /// Whose withdrawal made it moot.
    pub(crate) moot: Option<Mate>,
}

/// How many faults may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Drivers that die, or give up.
    pub(crate) drivers_lost: u8,
    /// Receipts that are lost.
    pub(crate) receipts_lost: u8,
    /// Sweeps that resume what another driver is at.
    pub(crate) drivers_raced: u8,
    /// Shards that become unreachable.
    pub(crate) shards_cut: u8,
}

impl Cluster {
    /// The enrolment of an applicant.
    pub(crate) fn of(&self, mate: Mate) -> &Enrolment {
        &self.enrolments[mate.index()]
    }

    /// The enrolment of an applicant, to be changed.
    pub(crate) fn of_mut(&mut self, mate: Mate) -> &mut Enrolment {
        &mut self.enrolments[mate.index()]
    }

    /// Whether messages to and from the shard arrive.
    pub(crate) fn reaches(&self, shard: Shard) -> bool {
        !self.unreachable[shard.index()]
    }

    /// Those whose withdrawal was acknowledged.
    pub(crate) fn withdrawals_acknowledged(&self) -> MateSet {
        let mates = (0..MATES_MAX as u8).map(Mate);
        mates.filter(|mate| self.of(*mate).withdrawal_acknowledged).collect()
    }
}

impl Enrolment {
    /// One of an applicant who does not exist.
    pub(crate) const NONE: Self = Self {
        staged_at: None,
        withdrawn_at: None,
        withdrawal_acknowledged: false,
        round: 0,
        pending: false,
        verdict: None,
        verdict_first: None,
        cases_open: MateSet::NONE,
        cases_moot: MateSet::NONE,
        drivers: [Driver::Gone; DRIVERS_MAX],
    };

    /// The verdict, if it has one, waits for no other, and was not withdrawn.
    pub(crate) fn settled(&self) -> Option<&Verdict> {
        self.verdict.as_ref().filter(|_| !self.pending && self.withdrawn_at.is_none())
    }

    /// How many of its drivers are alive.
    pub(crate) fn drivers_alive(&self) -> usize {
        self.drivers.iter().filter(|driver| driver.is_alive()).count()
    }

    /// Replaces a driver.
    pub(crate) fn drive(&mut self, slot: usize, driver: Driver) {
        self.drivers[slot] = driver;
        self.drivers.sort_unstable();
    }

    /// Adds a driver. There is always room: two are alive at most, and each driver lost was counted.
    pub(crate) fn drive_also(&mut self, driver: Driver) {
        assert_eq!(self.drivers[0], Driver::Gone, "no room for another driver");
        self.drive(0, driver);
    }
}
