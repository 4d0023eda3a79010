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
    SearchBeforeStage: "shards are searched before the stage is acknowledged", caught by no_missed_duplicate;
    /// A node.
    BarrierSkipped: "a scan does not wait for a read barrier", caught by no_missed_duplicate;
    /// A replica.
    BarrierJoinedLate: "a search joins a barrier that was sent before", caught by no_missed_duplicate;
    /// A node.
    ScanJoinedLate: "a search joins a scan that is under way", caught by no_missed_duplicate;
    /// A replica.
    BarrierContextReused: "a barrier's round is asked again under the same mark", caught by no_missed_duplicate;
    /// A node.
    BarrierOfAppliedIndex: "a barrier waits for what raft applied, not for what the catalogue has", caught by no_missed_duplicate;
    /// A coordinator.
    SilenceTakenForAbsence: "a shard that does not answer counts as one without candidates", caught by coverage_is_what_was_searched;
    /// A coordinator.
    MergeDropsShard: "the candidates of the last shard are left out", caught by no_missed_duplicate;
    /// A shard.
    SecondSettleWins: "a later settle of a round replaces the first", caught by same_request_same_answer;
    /// A shard.
    OtherContentAccepted: "an id that is taken is taken again by other content", caught by same_request_same_answer;
    /// A shard.
    CaseOfOrderedPair: "a case belongs to an ordered pair", caught by one_case_per_pair;
    /// A process.
    ApplyWithoutPersist: "what is applied and acknowledged is never synced", caught by nothing_acknowledged_is_lost | replicas_agree | no_replica_stops_by_itself;
    /// A process.
    AcknowledgeBeforeSync: "votes, acknowledgements and answers leave before the write is safe", caught by nothing_acknowledged_is_lost | replicas_agree | no_replica_stops_by_itself;
    /// A disk.
    TornBatchKept: "a batch torn by a crash is kept in part", caught by replicas_agree | nothing_acknowledged_is_lost | no_replica_stops_by_itself | progress;
    /// A replica.
    VoteForgotten: "a vote is not on disk before it is cast", caught by replicas_agree | nothing_acknowledged_is_lost | no_replica_stops_by_itself;
    /// A node.
    EmptiedVolumeJoinsAgain: "a node whose volume was emptied comes back under its old replica ids", caught by nothing_acknowledged_is_lost | replicas_agree | no_replica_stops_by_itself;
    /// A node.
    WithdrawalIgnored: "a withdrawn enrolment stays in the catalogue", caught by withdrawn_is_never_a_candidate;
    /// A coordinator.
    ObligationDropped: "an obligation is discharged without being delivered", caught by every_candidate_has_a_case;
    /// A coordinator.
    NobodySweeps: "enrolments and obligations left behind are not looked for", caught by progress;
    /// A shard.
    ClockInApply: "what is applied depends on the replica", caught by replicas_agree;
}
