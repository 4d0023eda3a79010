//! What a run did and suffered, counted, so that a run that exercised nothing is seen.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Counts of one run, or of many.
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
            /// Deaths in the middle of a turn, by the boundary at which they came.
            pub deaths: BTreeMap<String, u64>,
        }

        impl Tally {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                for (what, times) in &other.deaths {
                    *self.deaths.entry(what.clone()).or_default() += times;
                }
            }

            /// What was counted never, in words.
            pub fn never(&self) -> Vec<&'static str> {
                let counts = [$(($words, self.$name)),*];
                counts.into_iter().filter(|(_, count)| *count == 0).map(|(words, _)| words).collect()
            }

            fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name)),*]
            }
        }
    };
}

tally! {
    /// Sent, whether or not they arrived.
    messages: "messages sent",
    /// By chance or by a cut.
    messages_lost: "messages lost",
    /// Delivered twice.
    messages_repeated: "messages delivered twice",
    /// Between two effects of a process.
    boundaries: "effect boundaries passed",
    /// Of processes, at any moment.
    crashes: "processes killed",
    /// Of processes.
    restarts: "processes started again",
    /// Lost by crashes.
    batches_lost: "unsynced batches lost",
    /// Survived crashes though nobody was told that they would.
    batches_survived: "unsynced batches that survived",
    /// Halted and going on later.
    pauses: "processes halted for a while",
    /// One to all, in both directions.
    isolations: "processes isolated",
    /// The processes in two halves.
    splits: "networks split",
    /// One direction between two processes.
    one_way_cuts: "one-way cuts",
    /// Writes that failed for want of room.
    disks_full: "writes refused by a full disk",
    /// That failed.
    syncs_failed: "syncs failed",
    /// That took long.
    slow_disks: "slow disks",
    /// That failed.
    reads_failed: "replicas stopped by a failed read",
    /// Of a process's wall clock.
    clock_jumps: "wall clocks jumped",
    /// Of a process's ticks.
    clocks_skewed: "clocks running fast or slow",
    /// Node volumes emptied.
    wipes: "volumes wiped",
    /// Asked of leaders.
    leadership_moves: "leaderships to be handed over",
    /// Of replicas, by their own bounds.
    logs_cut: "logs cut short",
    /// Asked for by leaders.
    snapshots_wanted: "snapshots wanted for followers",
    /// Sent, whether or not they arrived.
    snapshot_parts: "parts of snapshots sent",
    /// By followers.
    snapshots_installed: "snapshots installed",
    /// Because the follower had as much by then.
    snapshots_of_no_use: "snapshots of no use when they arrived",
    /// By their sender.
    snapshots_given_up: "snapshots given up",
    /// By the death of the receiver.
    snapshots_cut_off: "snapshots cut off by a death",
    /// Refused by a leader, or without an answer.
    changes_refused: "changes of a membership refused",
    /// Complete.
    changes_made: "changes of a membership made",
    /// Of leaders that were to be replaced.
    leaders_stepping_aside: "leaders that stepped aside to be replaced",
    /// Complete, with the old replica removed.
    replicas_replaced: "replicas replaced by others",
    /// With the new replica removed.
    moves_given_up: "moves of a replica given up",
    /// With an empty volume, as new ones.
    rejoined: "emptied processes that joined as new ones",
    /// Refused to a caller.
    overloads: "calls refused for want of room",
    /// In any group.
    leaders: "leaders elected",
    /// Put in force.
    policies: "policies changed",
    /// Built and swapped in.
    seals: "segments sealed",
    /// Swapped in.
    compactions: "compactions of sealed segments",
    /// By compactions.
    references_reclaimed: "references of withdrawn enrolments reclaimed",
    /// Written beside the rows.
    checkpoints: "checkpoints of catalogues written",
    /// From a checkpoint and what came later.
    catalogues_resumed: "catalogues resumed from a checkpoint",
    /// From their files.
    segments_taken: "segments taken from their files",
    /// By crashes and rot.
    kept_files_damaged: "kept files damaged",
    /// That did not hold what they should.
    kept_files_refused: "kept files refused",
    /// That were not of the rows.
    checkpoints_refused: "checkpoints that were not of the rows",
    /// Made by replicas.
    scans: "scans",
    /// By more than one search.
    scans_shared: "scans shared by searches",
    /// By clients.
    calls: "calls of clients",
    /// Of the same request.
    calls_again: "requests sent again",
    /// Of calls.
    unanswered: "calls without an answer in time",
    /// By a client that lost patience, while the enrolment was in work.
    cancelled: "enrolments given up by their client",
    /// To clients.
    inconclusive: "inconclusive answers",
    /// To clients.
    already_exists: "ids refused for other content",
    /// On record at the end.
    unique: "verdicts: unique",
    /// On record at the end.
    possible_duplicates: "verdicts: possible duplicate",
    /// On record at the end.
    not_comparable: "verdicts: not comparable",
    /// On record at the end.
    saturated: "verdicts: saturated",
    /// On record at the end.
    later_rounds: "verdicts of later rounds",
    /// On record at the end.
    withdrawn: "enrolments withdrawn",
    /// On record at the end.
    cases: "cases",
    /// By another coordinator or later.
    resumed: "enrolments finished by the sweep",
    /// Delivered.
    obligations: "obligations delivered",
    /// Answered.
    identifications: "identifications",
    /// Ordered pairs of enrolments that reach the threshold.
    mates: "ordered pairs that reach the threshold",
}

impl Tally {
    pub(crate) fn died_at(&mut self, boundary: &'static str) {
        *self.deaths.entry(boundary.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (words, count) in self.rows() {
            writeln!(formatter, "{count:>14}  {words}")?;
        }
        for (boundary, deaths) in &self.deaths {
            writeln!(formatter, "{deaths:>14}  deaths {boundary}")?;
        }
        Ok(())
    }
}
