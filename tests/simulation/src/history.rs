//! What clients asked of a cluster and were told, and what it has on record once it rests: what the checkers judge, whether a
//! simulation or real processes made it.
//!
//! Does not live here: how it is gathered, and what must hold of it (see [`crate::checkers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use semel_index::{EnrolmentId, GalleryId, ShardCount, ShardId};

/// An enrolment in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its gallery.
    pub gallery: GalleryId,
    /// Its id there.
    pub enrolment: EnrolmentId,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.gallery, self.enrolment)
    }
}

/// A moment on one clock that all calls and scans of a history share. Only its order means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// Where a recorded enrolment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Waits for the verdict of its round.
    Staged,
    /// No candidate.
    Unique,
    /// At least one candidate.
    PossibleDuplicate,
    /// No candidate, but too few could be compared.
    NotComparable,
    /// Withdrawn.
    Withdrawn,
}

/// What one shard contributed to a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardSeen {
    /// The shard.
    pub shard: ShardId,
    /// The log index up to which it was searched.
    pub searchable_index: u64,
    /// Live enrolments compared.
    pub compared: u64,
    /// Live enrolments without a comparable reference.
    pub not_comparable: u64,
    /// Withdrawn enrolments.
    pub withdrawn: u64,
}

/// A verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictSeen {
    /// 1 for the first.
    pub round: u32,
    /// [`State::Unique`], [`State::PossibleDuplicate`] or [`State::NotComparable`].
    pub state: State,
    /// The candidates listed, best first.
    pub candidates: Vec<EnrolmentId>,
    /// How many there were.
    pub candidates_total: u64,
    /// Whether there were more than are listed.
    pub saturated: bool,
    /// What was searched.
    pub coverage: Vec<ShardSeen>,
    /// Live enrolments over all shards, as the verdict states them.
    pub live: u64,
    /// Those compared, as the verdict states them.
    pub compared: u64,
}

/// An enrolment as a call returned it, or as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSeen {
    /// Where it stands.
    pub state: State,
    /// Its shard.
    pub shard: ShardId,
    /// The log index of its stage.
    pub stage_index: u64,
    /// The version of its gallery's policy that it is pinned to.
    pub policy_version: u64,
    /// The latest verdict, if there is one.
    pub verdict: Option<VerdictSeen>,
    /// Its cases, in hexadecimal. Listed up to a bound.
    pub case_ids: BTreeSet<String>,
}

/// Names what a client sends under an enrolment id: requests with the same number are the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content(pub u64);

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To enrol, or to enrol again.
    Enrol(Key, Content),
    /// To withdraw.
    Withdraw(Key),
    /// To read.
    Read(Key),
    /// Who reaches the threshold beside the probe.
    Identify {
        /// Where to search.
        gallery: GalleryId,
        /// Every enrolment ever sent whose score beside the probe reaches the threshold.
        reaching: BTreeSet<EnrolmentId>,
    },
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The record, with a verdict unless it was only read.
    Recorded(RecordSeen),
    /// The record as staged: no verdict yet.
    Inconclusive {
        /// The record.
        record: RecordSeen,
        /// Shards that did not answer.
        missing: Vec<ShardId>,
    },
    /// The id is taken by other content.
    AlreadyExists,
    /// There is no such enrolment.
    NoSuchEnrolment,
    /// The candidates of an identification, and whether every shard answered.
    Candidates {
        /// The candidates listed.
        candidates: Vec<EnrolmentId>,
        /// Whether there were more.
        saturated: bool,
        /// Shards that did not answer.
        missing: Vec<ShardId>,
    },
    /// Nothing. It may be asked again; whether it was done is unknown or it was not, in the cluster's words.
    Unavailable(String),
}

/// One call of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When the client sent it.
    pub asked_at: Moment,
    /// What it asked.
    pub asked: Asked,
    /// When it had the answer, and what that was; `None` if the client or its connection was gone before.
    pub told: Option<(Moment, Told)>,
}

/// A search of one shard for one enrolment, as the shard's replica made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// When the request for it arrived.
    pub asked_at: Moment,
    /// Whom it was for; `None` for an identification.
    pub applicant: Option<Key>,
    /// What was found.
    pub seen: ShardSeen,
    /// The candidates it returned.
    pub candidates: Vec<EnrolmentId>,
}

/// An enrolment's record that left its shard, as the receipt of a command or because it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// When it left the replica.
    pub at: Moment,
    /// The shard.
    pub shard: ShardId,
    /// The log index of the enrolment's stage, which every search that begins later must have seen.
    pub stage_index: u64,
    /// The round that the record is in.
    pub round: u32,
}

/// A policy whose being in force was told to whoever put it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTold {
    /// When that was told.
    pub told_at: Moment,
    /// The gallery.
    pub gallery: GalleryId,
    /// The version in force then.
    pub version: u64,
}

/// A vote that left a replica, or a replica that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Elected {
    /// The group.
    pub group: u64,
    /// The term.
    pub term: u64,
    /// Who votes; of a leader, itself.
    pub voter: u64,
    /// Who is voted for, or leads.
    pub candidate: u64,
}

/// A configuration of a group, as one of its replicas has it applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Configured {
    /// The group.
    pub group: u64,
    /// How often it had been changed.
    pub epoch: u64,
    /// The voters, ascending; while it is joint, those to come.
    pub voters: Vec<u64>,
    /// The voters that it is being changed from, ascending; empty unless it is joint.
    pub voters_outgoing: Vec<u64>,
    /// The learners, ascending.
    pub learners: Vec<u64>,
}

/// A learner that a leader began to make a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewVoter {
    /// The group.
    pub group: u64,
    /// The learner.
    pub replica: u64,
    /// How many entries of the leader's log it lacked.
    pub lag: u64,
    /// How many it may have lacked.
    pub lag_max: u64,
}

/// The log of a replica, over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSeen {
    /// The most applied entries that it held.
    pub held: u64,
    /// The most that it may hold.
    pub held_max: u64,
    /// The last index before it, when last looked at.
    pub truncated: u64,
}

/// What a replica has promised others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Promises {
    /// Its term.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// Entries up to here are committed, as far as it knows.
    pub commit: u64,
    /// The terms of the entries of its log, and of the one before.
    pub terms: BTreeMap<u64, u64>,
}

/// A replica that installed a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its group.
    pub group: u64,
    /// What it had promised before.
    pub before: Promises,
    /// What its rows say afterwards.
    pub after: Promises,
}

/// A case on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseSeen {
    /// In hexadecimal.
    pub case_id: String,
    /// Its gallery.
    pub gallery: GalleryId,
    /// The pair, smaller id first; `None` in second place for a cluster case.
    pub subject: (EnrolmentId, Option<EnrolmentId>),
    /// Whether somebody must look; a moot one is not open.
    pub open: bool,
    /// The enrolments whose verdicts named it.
    pub opened_by: BTreeSet<EnrolmentId>,
}

/// The rows of one replica at one applied index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaSeen {
    /// Its group: a shard's number, or another number for the coordinators' group.
    pub group: u64,
    /// The replica.
    pub replica: u64,
    /// Entries applied.
    pub applied: u64,
    /// The digest of its rows there, in hexadecimal.
    pub digest: String,
}

/// The cluster's records once faults have ended and nothing is left to do.
#[derive(Debug, Clone, Default)]
pub struct AtRest {
    /// Every enrolment, each with all verdicts that could be read, oldest first.
    pub enrolments: BTreeMap<Key, (RecordSeen, Vec<VerdictSeen>)>,
    /// Every case.
    pub cases: Vec<CaseSeen>,
    /// What shards still owe each other.
    pub obligations: u64,
    /// What kept the cluster from coming to rest, if it did not.
    pub unfinished: Option<String>,
}

/// What replicas did, as somebody sees it who looks at them from within.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Every scan.
    pub scans: Vec<Scan>,
    /// Every record that left its shard, in order.
    pub acknowledged: Vec<Acknowledged>,
    /// Every vote that one replica gave another.
    pub votes: BTreeSet<Elected>,
    /// Every leader.
    pub leaders: BTreeSet<Elected>,
    /// Every configuration of every group.
    pub configurations: BTreeSet<Configured>,
    /// Every learner that was to become a voter.
    pub new_voters: Vec<NewVoter>,
    /// The log of each replica, by group and replica.
    pub logs: BTreeMap<(u64, u64), LogSeen>,
    /// Every snapshot that was installed.
    pub installed: Vec<Installed>,
    /// Group and replica of every read barrier that a replica answered which did not belong to its group.
    pub answered_by_strangers: Vec<(u64, u64)>,
    /// What replicas stopped for without a fault that explains it.
    pub alarms: Vec<String>,
}

/// Everything that checkers look at.
#[derive(Debug, Clone)]
pub struct History {
    /// The number of shards.
    pub shards: ShardCount,
    /// Every call, in the order in which they were asked.
    pub calls: Vec<Call>,
    /// Every policy that an operator was told to be in force, in order.
    pub policies: Vec<PolicyTold>,
    /// What can be seen of a cluster only from within.
    pub watched: Option<Watched>,
    /// Every state of a replica that was looked at.
    pub replicas: Vec<ReplicaSeen>,
    /// What is on record.
    pub at_rest: AtRest,
    /// Applicant and other: every ordered pair whose score reaches the threshold that the applicant is pinned to.
    pub reaching: BTreeSet<(Key, Key)>,
    /// Cases that a saturated verdict opens for its best candidates.
    pub saturated_cases_max: usize,
}

impl History {
    /// Every record that a call returned, with its key and when it was asked for and returned.
    pub fn records_told(&self) -> impl Iterator<Item = RecordTold<'_>> {
        self.calls.iter().filter_map(|call| {
            let (told_at, told) = call.told.as_ref()?;
            let (key, content) = match &call.asked {
                Asked::Enrol(key, content) => (key, Some(*content)),
                Asked::Withdraw(key) | Asked::Read(key) => (key, None),
                Asked::Identify { .. } => return None,
            };
            let record = match told {
                Told::Recorded(record) | Told::Inconclusive { record, .. } => record,
                Told::AlreadyExists | Told::NoSuchEnrolment | Told::Candidates { .. } | Told::Unavailable(_) => {
                    return None;
                }
            };
            Some(RecordTold { asked_at: call.asked_at, told_at: *told_at, key, content, record })
        })
    }

    /// Every verdict that a call returned or that is on record, with its enrolment.
    pub fn verdicts(&self) -> impl Iterator<Item = (&Key, &VerdictSeen)> {
        let told = self.records_told().filter_map(|told| Some((told.key, told.record.verdict.as_ref()?)));
        told.chain(self.verdicts_recorded())
    }

    /// Every verdict on record, with its enrolment.
    pub fn verdicts_recorded(&self) -> impl Iterator<Item = (&Key, &VerdictSeen)> {
        self.at_rest.enrolments.iter().flat_map(|(key, (_, verdicts))| verdicts.iter().map(move |one| (key, one)))
    }

    /// When each withdrawal was first acknowledged.
    pub fn withdrawn_from(&self) -> BTreeMap<&Key, Moment> {
        let mut from: BTreeMap<&Key, Moment> = BTreeMap::new();
        for told in self.records_told().filter(|told| told.record.state == State::Withdrawn) {
            let first = from.entry(told.key).or_insert(told.told_at);
            *first = told.told_at.min(*first);
        }
        from
    }
}

/// A record as a call returned it.
#[derive(Debug, Clone, Copy)]
pub struct RecordTold<'a> {
    /// When the call was made.
    pub asked_at: Moment,
    /// When it was answered.
    pub told_at: Moment,
    /// The enrolment.
    pub key: &'a Key,
    /// What was sent, if the call enrolled.
    pub content: Option<Content>,
    /// The record.
    pub record: &'a RecordSeen,
}
