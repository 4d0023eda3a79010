//! What the cluster holds once everything was answered: cases, counts, replicas.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use semel_client::{CallError, Client};
use semel_population::Row;
use semel_proto::v1::{Case, GetClusterStatusResponse, ListCasesRequest};
use semel_sandbox::{Sandbox, SandboxError, wait_until};

use super::sets::Set;

/// How long obligations and replicas may take to come to rest.
const AT_REST_WITHIN: Duration = Duration::from_secs(60);
/// Cases per page.
const PAGE: u32 = 1_000;

/// Waits until every enrolment is counted, nothing is pending, each case is opened, and all replicas of a shard hold
/// the same state.
pub(super) async fn at_rest(sandbox: &Sandbox, sets: [&Set; 2]) -> Result<GetClusterStatusResponse, SandboxError> {
    wait_until("the cluster to come to rest", AT_REST_WITHIN, async || {
        let status = sandbox.status().await.map_err(|error| error.to_string())?;
        match unrest(&status, &sets) {
            None => Ok(status),
            Some(unrest) => Err(unrest),
        }
    })
    .await
}

/// What is not at rest yet. An enrolment is counted when staged, and its settle commits its obligations: a report that
/// counts all, none of them pending, cannot hide an obligation.
fn unrest(status: &GetClusterStatusResponse, sets: &[&Set]) -> Option<String> {
    for set in sets {
        let counts = status.galleries.iter().find(|counts| counts.gallery == set.gallery);
        let (live, pending) = counts.map_or((0, 0), |counts| (counts.live, counts.pending));
        if live != set.len() as u64 || pending > 0 {
            return Some(format!("{} holds {live} of {} enrolments, {pending} pending", set.gallery, set.len()));
        }
    }
    let obligations: u64 = status.shards.iter().map(|shard| shard.obligations).sum();
    if obligations > 0 {
        return Some(format!("{obligations} obligations"));
    }
    let agreed = agreed(status);
    (agreed.0 < agreed.1).then(|| format!("{} of {} shards have replicas that agree", agreed.0, agreed.1))
}

/// Shards whose replicas all report the same state at the same log index, and all shards.
fn agreed(status: &GetClusterStatusResponse) -> (usize, usize) {
    let agree = status.shards.iter().filter(|shard| {
        let mut states = shard.replicas.iter().map(|replica| (replica.applied_index, &replica.digest));
        let first = states.next();
        first.is_some_and(|first| !first.1.is_empty() && states.all(|state| state == first))
    });
    (agree.count(), status.shards.len())
}

/// The cases of a gallery beside the pairs that verdicts named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cases {
    pub(super) open: usize,
    /// Flagged pairs without a case.
    pub(super) missing: usize,
    /// Cases of a pair that has one already.
    pub(super) repeated: usize,
    /// Cases of pairs that no verdict named.
    pub(super) unfounded: usize,
    /// Cluster cases, of saturated verdicts.
    pub(super) cluster: usize,
}

impl Cases {
    pub(super) fn one_per_pair(&self) -> bool {
        (self.missing, self.repeated, self.unfounded) == (0, 0, 0)
    }
}

/// Reads every case of a set's gallery.
pub(super) async fn cases(client: &Client, set: &Set, reviewed: &HashSet<(Row, Row)>) -> Result<Cases, CallError> {
    let mut all: Vec<Case> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListCasesRequest { gallery: set.gallery.to_owned(), page_size: PAGE, page_token };
        let page = client.cases(request).await?;
        all.extend(page.cases);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    Ok(compare(&all, set, reviewed))
}

fn compare(all: &[Case], set: &Set, reviewed: &HashSet<(Row, Row)>) -> Cases {
    let mut found: HashMap<(Row, Row), usize> = HashMap::new();
    let (mut unfounded, mut cluster) = (0, 0);
    for case in all {
        let rows: Vec<_> = case.enrolment_ids.iter().filter_map(|id| set.row_of(id)).collect();
        match rows.as_slice() {
            _ if case.cluster => cluster += 1,
            &[one, other] => *found.entry((one.min(other), one.max(other))).or_default() += 1,
            _ => unfounded += 1,
        }
    }
    Cases {
        open: all.len(),
        missing: reviewed.iter().filter(|pair| !found.contains_key(pair)).count(),
        repeated: found.values().map(|count| count - 1).sum(),
        unfounded: unfounded + found.keys().filter(|pair| !reviewed.contains(pair)).count(),
        cluster,
    }
}

#[cfg(test)]
mod tests {
    use semel_proto::v1::{GalleryCounts, ReplicaStatus, ShardStatus};

    use super::super::sets::voices;
    use super::*;

    #[test]
    fn missing_repeated_and_unfounded_cases_are_told_apart() {
        let set = voices(1).expect("the voices are in the binary");
        let id = |row: u32| set.request(Row(row)).enrolment_id;
        let pair = |one, other| Case { enrolment_ids: vec![id(one), id(other)], ..Default::default() };
        let flagged = HashSet::from([(Row(0), Row(1)), (Row(2), Row(3)), (Row(4), Row(5))]);
        let cluster = Case { enrolment_ids: vec![id(9)], cluster: true, ..Default::default() };
        let all = [pair(1, 0), pair(2, 3), pair(3, 2), pair(7, 8), cluster];
        let cases = compare(&all, &set, &flagged);
        assert_eq!(cases, Cases { open: 5, missing: 1, repeated: 1, unfounded: 1, cluster: 1 });
        assert!(!cases.one_per_pair());
        assert!(compare(&[pair(0, 1), pair(2, 3), pair(4, 5)], &set, &flagged).one_per_pair());
    }

    #[test]
    fn replicas_at_different_states_are_not_at_rest() {
        let set = voices(1).expect("the voices are in the binary");
        let replica =
            |digest: &str| ReplicaStatus { applied_index: 7, digest: digest.to_owned(), ..Default::default() };
        let mut status = GetClusterStatusResponse {
            galleries: vec![GalleryCounts { gallery: "voices".to_owned(), live: 525, ..Default::default() }],
            shards: vec![ShardStatus { replicas: vec![replica("aa"), replica("aa")], ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(unrest(&status, &[&set]), None);
        status.shards[0].replicas[1] = replica("ab");
        assert!(unrest(&status, &[&set]).expect("disagree").contains("0 of 1"));
        status.shards[0].obligations = 2;
        assert!(unrest(&status, &[&set]).expect("obligations").contains("2 obligations"));
        status.galleries[0].live = 524;
        assert!(unrest(&status, &[&set]).expect("one short").contains("524 of 525"));
    }
}
