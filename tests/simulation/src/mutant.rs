//! Deliberate defects, one to a run, that a checker must notice: a checker that no defect fails checks nothing.
//!
//! Those of how processes drive the cores are made where the simulation drives them; those inside a core are made there, in code
//! that only the feature `mutants` compiles.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident: $words:literal, caught by $($checker:ident)|+;)*) => {
        /// A defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// Every defect.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What it does, in words.
            pub fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }

            /// The checkers of which at least one must notice it.
            pub fn caught_by(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$(stringify!($checker)),+],)*
                }
            }
        }
    };
}

mutants! {
    /// A coordinator.
    SearchBeforeStage: "shards are searched before the stage is acknowledged", caught by no_missed_duplicate | coverage_is_what_was_searched;
    /// A node.
    BarrierSkipped: "a scan does not wait for a read barrier", caught by a_search_sees_what_was_acknowledged | no_missed_duplicate;
    /// A replica.
    BarrierJoinedLate: "a search joins a barrier that was sent before", caught by a_search_sees_what_was_acknowledged | no_missed_duplicate;
    /// A node.
    ScanJoinedLate: "a search joins a scan that is under way", caught by a_search_sees_what_was_acknowledged | no_missed_duplicate;
    /// A replica.
    BarrierContextReused: "a barrier is asked for again under the same mark", caught by a_search_sees_what_was_acknowledged | no_missed_duplicate;
    /// A node.
    BarrierOfAppliedIndex: "a barrier waits for what raft has applied, not for what the catalogue has", caught by a_search_sees_what_was_acknowledged | no_missed_duplicate;
    /// A node.
    ReadWithoutBarrier: "a read does not wait for a read barrier", caught by a_read_never_goes_back;
    /// A coordinator.
    PolicyReadWithoutBarrier: "a gallery's policy is read without a barrier of the coordinators' group", caught by an_enrolment_pins_the_policy_in_force;
    /// A node.
    ThresholdLowered: "a shard lists candidates below the threshold", caught by a_candidate_reaches_its_threshold;
    /// A node.
    WithdrawalIgnored: "a withdrawn enrolment stays in the catalogue", caught by withdrawn_is_never_a_candidate;
    /// A coordinator.
    SilenceTakenForAbsence: "a shard that does not answer counts as one without candidates", caught by coverage_is_what_was_searched;
    /// A coordinator and a shard.
    CoverageIncomplete: "a verdict that lacks a shard is recorded", caught by silence_is_never_unique;
    /// A coordinator.
    MergeDropsShard: "the candidates of one shard are left out of the merge", caught by no_missed_duplicate | coverage_is_what_was_searched;
    /// A coordinator.
    IdentificationDropsShard: "an identification leaves one shard's candidates out", caught by an_identification_finds_every_mate;
    /// A shard.
    SecondSettleWins: "a later settle of a round replaces the first", caught by same_request_same_answer;
    /// A coordinator and a shard.
    OtherContentAccepted: "other content under a taken id is answered with the record", caught by same_request_same_answer;
    /// A shard.
    CaseOfOrderedPair: "a case belongs to an ordered pair", caught by one_case_per_pair;
    /// A coordinator.
    UncertainToldAsStaged: "an enrolment of which nobody knows whether it is staged is told to be", caught by nothing_acknowledged_is_lost;
    /// A coordinator.
    ObligationDropped: "an obligation is discharged without being delivered", caught by every_candidate_has_a_case;
    /// A coordinator.
    NobodySweeps: "nobody looks for what was left behind", caught by progress;
    /// A shard.
    ClockInApply: "what a command does depends on when it is applied", caught by replicas_agree;
    /// A process.
    ApplyWithoutPersist: "what is acknowledged is never synced", caught by no_replica_stops_by_itself;
    /// A process.
    AdvanceBeforeSync: "votes and acknowledgements leave before the write is safe", caught by replicas_agree | no_replica_stops_by_itself;
    /// A disk.
    TornBatchKept: "a batch torn by a crash is kept in part", caught by replicas_agree | no_replica_stops_by_itself;
    /// A replica.
    VoteForgotten: "a vote is never written", caught by one_vote_a_term | one_leader_a_term | replicas_agree | no_replica_stops_by_itself;
    /// A replica.
    VoteBeforeSync: "a vote leaves before it is on disk", caught by one_vote_a_term | one_leader_a_term | replicas_agree | no_replica_stops_by_itself;
    /// A node.
    EmptiedVolumeJoinsAgain: "a node with an emptied volume comes back as who it was", caught by replicas_agree | no_replica_stops_by_itself;
    /// A replica.
    LogNeverCut: "the log is never cut short", caught by a_log_is_bounded;
    /// A replica.
    LogCutUnmarked: "the log is cut short without a word where it starts", caught by no_replica_stops_by_itself;
    /// A replica.
    InstallForgetsVote: "who installs a snapshot forgets its vote", caught by a_snapshot_keeps_promises | one_vote_a_term;
    /// A replica.
    InstallDropsTail: "who installs a snapshot drops what it acknowledged after it", caught by a_snapshot_keeps_promises;
    /// A process.
    SnapshotRowsLater: "the rows of a snapshot are read later than its index", caught by replicas_agree;
    /// A process.
    SnapshotLaidOver: "the rows of a snapshot are laid over those that were there", caught by replicas_agree;
    /// A process.
    SnapshotCutShort: "a snapshot is installed before all of it has arrived", caught by replicas_agree;
    /// A replica.
    LearnerNotCaughtUp: "a learner is made a voter before it has the log", caught by a_new_voter_is_caught_up;
    /// A shard.
    ResumeForgetsWithdrawals: "a resumed catalogue forgets withdrawals after its checkpoint", caught by withdrawn_is_never_a_candidate | no_replica_stops_by_itself;
    /// A replica.
    JointLeftAtOnce: "a voter is replaced in one step", caught by one_configuration_at_a_time;
    /// A replica.
    RemovedReplicaAnswers: "a replica answers for a group that it belongs to no more", caught by only_members_answer;
}

impl Mutant {
    /// The part of the defect that lies inside a core, if it has one.
    #[cfg(feature = "mutants")]
    fn in_core(self) -> Option<semel_raft::mutant::Mutant> {
        use semel_raft::mutant::Mutant as InCore;
        match self {
            Self::BarrierJoinedLate => Some(InCore::BarrierJoinedLate),
            Self::BarrierContextReused => Some(InCore::BarrierContextReused),
            Self::VoteForgotten => Some(InCore::VoteForgotten),
            Self::VoteBeforeSync => Some(InCore::VoteBeforeSync),
            Self::ResumeForgetsWithdrawals => Some(InCore::ResumeForgetsWithdrawals),
            Self::SecondSettleWins => Some(InCore::SecondSettleWins),
            Self::OtherContentAccepted => Some(InCore::OtherContentAccepted),
            Self::CoverageIncomplete => Some(InCore::CoverageIncomplete),
            Self::CaseOfOrderedPair => Some(InCore::CaseOfOrderedPair),
            Self::ClockInApply => Some(InCore::ClockInApply),
            Self::LogNeverCut => Some(InCore::LogNeverCut),
            Self::LogCutUnmarked => Some(InCore::LogCutUnmarked),
            Self::InstallForgetsVote => Some(InCore::InstallForgetsVote),
            Self::InstallDropsTail => Some(InCore::InstallDropsTail),
            Self::LearnerNotCaughtUp => Some(InCore::LearnerNotCaughtUp),
            Self::JointLeftAtOnce => Some(InCore::JointLeftAtOnce),
            Self::RemovedReplicaAnswers => Some(InCore::RemovedReplicaAnswers),
            Self::SearchBeforeStage
            | Self::BarrierSkipped
            | Self::ScanJoinedLate
            | Self::BarrierOfAppliedIndex
            | Self::ReadWithoutBarrier
            | Self::PolicyReadWithoutBarrier
            | Self::ThresholdLowered
            | Self::WithdrawalIgnored
            | Self::SilenceTakenForAbsence
            | Self::MergeDropsShard
            | Self::IdentificationDropsShard
            | Self::UncertainToldAsStaged
            | Self::ObligationDropped
            | Self::NobodySweeps
            | Self::ApplyWithoutPersist
            | Self::AdvanceBeforeSync
            | Self::TornBatchKept
            | Self::SnapshotRowsLater
            | Self::SnapshotLaidOver
            | Self::SnapshotCutShort
            | Self::EmptiedVolumeJoinsAgain => None,
        }
    }

    /// Gives the cores on this thread the defect, or takes it from them.
    #[cfg(feature = "mutants")]
    pub(crate) fn choose(mutant: Option<Self>) {
        semel_raft::mutant::choose(mutant.and_then(Self::in_core));
    }
}
