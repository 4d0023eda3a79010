//! A cluster at rest: whether it is, and what is on record then. Read from the disks, past all servers.

use std::collections::{BTreeMap, BTreeSet};

use semel_index::{Comparison, EnrolmentId, GalleryId, ShardId, compare, shard_of};
use semel_raft::{LogIndex, StoreError};
use semel_shard::{CanonicalReference, Case, CaseSubject};
use semel_workflow::{MetadataMachine, Pinned};

use crate::cluster::Cluster;
use crate::coordinator::METADATA_GROUP;
use crate::disk::GroupDisk;
use crate::history::{Asked, AtRest, CaseSeen, History, Key, RecordSeen, ReplicaSeen, State, VerdictSeen};
use crate::host::Digested as _;

/// Cases read at once.
const CASES_MAX: usize = 4_096;
const VERDICTS_MAX: usize = 64;

/// What keeps a cluster without faults from being at rest; `None` if nothing does.
pub(crate) fn what_is_left(cluster: &Cluster) -> Option<String> {
    if let Some(one) = cluster.moves.first() {
        return Some(format!("a replica is on its way: {one:?}"));
    }
    for shard in cluster.shards.all() {
        let applied: BTreeSet<LogIndex> = replicas(cluster, shard).map(|(_, applied, _)| applied).collect();
        if applied.len() != 1 {
            return Some(format!("replicas of shard {shard} are at {applied:?}"));
        }
        let left = replicas(cluster, shard).next().map_or(Ok(None), |(_, _, rows)| waits_in(&rows));
        match left {
            Ok(None) => {}
            Ok(Some(what)) => return Some(format!("in shard {shard}, {what}")),
            Err(error) => return Some(format!("shard {shard}: {error}")),
        }
    }
    None
}

/// What a shard waits for, if it waits.
fn waits_in(rows: &GroupDisk) -> Result<Option<String>, StoreError> {
    if let Some(pending) = semel_shard::pending(rows, 1)?.first() {
        return Ok(Some(format!("{} waits for its verdict", pending.enrolment_id)));
    }
    let obligations = semel_shard::obligations_count(rows)?;
    Ok((obligations > 0).then(|| format!("{obligations} obligations wait")))
}

/// The replicas of a shard that run, by node, with how far they are.
fn replicas(cluster: &Cluster, shard: ShardId) -> impl Iterator<Item = (u64, LogIndex, GroupDisk)> {
    cluster.nodes.iter().filter_map(move |node| {
        let status = node.run.as_ref()?.host.replica(u64::from(shard.0))?.status();
        Some((status.replica.get(), status.applied, node.rows(shard)))
    })
}

/// Gathers the history of a run that has ended.
pub(crate) fn history(cluster: &mut Cluster) -> History {
    for place in cluster.places() {
        cluster.collect_replicas_seen(place);
    }
    let mut replicas_seen = std::mem::take(&mut cluster.replicas_seen);
    replicas_seen.extend(recomputed(cluster));
    let mut enrolled = BTreeMap::new();
    for key in cluster.clients.enrolments() {
        if let Some(one) = read_enrolment(cluster, &key) {
            if !cluster.was_sent(&key, &one.references) {
                cluster.world.alarm(format!("{key} has references on record that nobody sent"));
            }
            if one.pinned.is_none() {
                cluster.world.alarm(format!("{key} is pinned to a policy that it does not fit, or that nobody knows"));
            }
            enrolled.insert(key, one);
        }
    }
    let reaching = reaching(&enrolled);
    let mut calls = std::mem::take(&mut cluster.clients.calls);
    for (call, position) in &cluster.clients.identifications {
        let Some(pinned) = cluster.world.probes.get(call) else { continue };
        if let Asked::Identify { gallery, reaching } = &mut calls[*position].asked {
            let within = enrolled.iter().filter(|(key, _)| key.gallery == *gallery);
            *reaching = within.filter(|(_, one)| reaches(pinned, one)).map(|(key, _)| key.enrolment.clone()).collect();
        }
    }
    let at_rest = AtRest {
        cases: cases(cluster, enrolled.keys()),
        obligations: cluster.shards.all().filter_map(|shard| obligations(cluster, shard)).sum(),
        unfinished: cluster.unfinished.clone(),
        enrolments: enrolled.into_iter().map(|(key, one)| (key, (one.record, one.verdicts))).collect(),
    };
    count(cluster, &at_rest, reaching.len());
    History {
        shards: cluster.shards,
        calls,
        policies: std::mem::take(&mut cluster.clients.policies),
        watched: Some(std::mem::take(&mut cluster.world.watched)),
        replicas: replicas_seen,
        at_rest,
        reaching,
        saturated_cases_max: semel_shard::SATURATED_CASES_OPENED_MAX,
    }
}

/// An enrolment as it is on record, with what it is compared by.
struct Enrolled {
    record: RecordSeen,
    verdicts: Vec<VerdictSeen>,
    references: Vec<CanonicalReference>,
    pinned: Option<Pinned>,
}

fn read_enrolment(cluster: &Cluster, key: &Key) -> Option<Enrolled> {
    let shard = shard_of(&key.gallery, &key.enrolment, cluster.shards);
    let (_, _, rows) = replicas(cluster, shard).max_by_key(|(_, applied, _)| *applied)?;
    let record = semel_shard::enrolment(&rows, &key.gallery, &key.enrolment).ok()??;
    let references = semel_shard::references(&rows, &key.gallery, &key.enrolment).ok()??;
    let verdicts = semel_shard::verdicts(&rows, &key.gallery, &key.enrolment, VERDICTS_MAX).ok()?;
    let views = cluster.coordinators.iter().filter_map(|one| one.run.as_ref());
    let policy = views.filter_map(|run| run.view().policy(&key.gallery, record.policy_version)).next();
    let workflow_references = references.iter().map(crate::convert::reference_to_workflow).collect();
    let pinned = policy.and_then(|policy| Pinned::new(policy, record.key_version, workflow_references).ok());
    Some(Enrolled {
        record: crate::convert::record_seen(&crate::convert::record_to_workflow(&record)),
        verdicts: verdicts.iter().map(crate::convert::verdict_recorded).collect(),
        references,
        pinned,
    })
}

/// Every ordered pair of enrolments of one gallery of which the second reaches the threshold that the first is pinned to.
fn reaching(enrolled: &BTreeMap<Key, Enrolled>) -> BTreeSet<(Key, Key)> {
    let mut pairs = BTreeSet::new();
    for (one, applicant) in enrolled {
        let Some(pinned) = &applicant.pinned else { continue };
        for (other, theirs) in enrolled.iter().filter(|(other, _)| other.gallery == one.gallery && *other != one) {
            if reaches(pinned, theirs) {
                pairs.insert((one.clone(), other.clone()));
            }
        }
    }
    pairs
}

fn reaches(pinned: &Pinned, theirs: &Enrolled) -> bool {
    pinned.references().iter().any(|own| {
        let same =
            theirs.references.iter().filter(|one| one.slot == own.reference.slot && one.spec == own.reference.spec);
        same.into_iter().any(|one| match compare(&one.spec, &own.reference.template, &one.template) {
            Comparison::Score(score) => score >= own.threshold,
            Comparison::NotComparable => false,
        })
    })
}

/// Digests computed from every row, which must be those that replicas keep.
fn recomputed(cluster: &Cluster) -> Vec<ReplicaSeen> {
    let mut seen = Vec::new();
    for shard in cluster.shards.all() {
        for (replica, applied, rows) in replicas(cluster, shard) {
            if let Ok(digest) = semel_shard::recompute_digest(&rows) {
                let (group, digest) = (u64::from(shard.0), digest.to_string());
                seen.push(ReplicaSeen { group, replica, applied: applied.0, digest });
            }
        }
    }
    for coordinator in &cluster.coordinators {
        let status = coordinator.run.as_ref().and_then(|run| run.host.replica(METADATA_GROUP)).map(|one| one.status());
        if let (Some(status), Ok(digest)) = (status, MetadataMachine::digest(&coordinator.rows())) {
            let (group, replica, applied) = (METADATA_GROUP, status.replica.get(), status.applied.0);
            seen.push(ReplicaSeen { group, replica, applied, digest });
        }
    }
    seen
}

fn obligations(cluster: &Cluster, shard: ShardId) -> Option<u64> {
    let (_, _, rows) = replicas(cluster, shard).max_by_key(|(_, applied, _)| *applied)?;
    semel_shard::obligations_count(&rows).ok()
}

fn cases<'a>(cluster: &Cluster, enrolled: impl Iterator<Item = &'a Key>) -> Vec<CaseSeen> {
    let galleries: BTreeSet<&GalleryId> = enrolled.map(|key| &key.gallery).collect();
    let mut cases = Vec::new();
    for shard in cluster.shards.all() {
        let Some((_, _, rows)) = replicas(cluster, shard).max_by_key(|(_, applied, _)| *applied) else { continue };
        for gallery in &galleries {
            let read = semel_shard::cases(&rows, gallery, None, CASES_MAX).unwrap_or_default();
            cases.extend(read.iter().map(case_seen));
        }
    }
    cases
}

fn case_seen(case: &Case) -> CaseSeen {
    let subject: (EnrolmentId, Option<EnrolmentId>) = match &case.subject {
        CaseSubject::Pair { smaller, larger } => (smaller.clone(), Some(larger.clone())),
        CaseSubject::Cluster(enrolment) => (enrolment.clone(), None),
    };
    CaseSeen {
        case_id: case.case_id.to_string(),
        gallery: case.gallery.clone(),
        subject,
        open: case.is_open(),
        opened_by: case.opened_by.iter().cloned().collect(),
    }
}

fn count(cluster: &mut Cluster, at_rest: &AtRest, mates: usize) {
    let tally = &mut cluster.world.tally;
    tally.mates += mates as u64;
    tally.cases += at_rest.cases.len() as u64;
    for (record, verdicts) in at_rest.enrolments.values() {
        tally.withdrawn += u64::from(record.state == State::Withdrawn);
        for verdict in verdicts {
            tally.saturated += u64::from(verdict.saturated);
            tally.later_rounds += u64::from(verdict.round > 1);
            match verdict.state {
                State::Unique => tally.unique += 1,
                State::PossibleDuplicate => tally.possible_duplicates += 1,
                State::NotComparable => tally.not_comparable += 1,
                State::Staged | State::Withdrawn => {}
            }
        }
    }
}
