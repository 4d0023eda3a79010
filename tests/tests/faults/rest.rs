//! The end of a scenario: when a cluster rests, what it then has on record, and what its replicas showed meanwhile.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use semel_proto::v1::case_service_client::CaseServiceClient;
use semel_proto::v1::cluster_service_client::ClusterServiceClient;
use semel_proto::v1::{Case, GetClusterStatusRequest, GetClusterStatusResponse, ListCasesRequest, ReplicaRole};
use semel_sandbox::wait_until;
use semel_simulation::history::{AtRest, ReplicaSeen, Told};
use tonic::transport::Channel;

use crate::clients::{Capture, GALLERY, gallery, key};
use crate::cluster::{AT_MOST, Cluster};
use crate::seen;

/// How often the watcher looks at the replicas.
const WATCH_EVERY: Duration = Duration::from_millis(150);
const PAGE_SIZE: u32 = 1_000;
const READS_AT_ONCE: usize = 16;

impl Cluster {
    /// Waits until nothing is left to do and gathers what is on record.
    pub(crate) async fn at_rest(&self, unfinished: Option<String>) -> AtRest {
        if unfinished.is_some() {
            return AtRest { unfinished, ..AtRest::default() };
        }
        let before = RefCell::new(None);
        let resting = wait_until("the cluster to rest", AT_MOST, || self.look_whether_at_rest(&before)).await;
        let status = match resting {
            Ok(status) => status,
            Err(error) => return AtRest { unfinished: Some(error.to_string()), ..AtRest::default() },
        };
        self.watched().extend(seen::replicas(&status));
        let sent: Vec<Capture> = self.clients.book().sent.iter().copied().collect();
        let read = futures::stream::iter(sent)
            .map(async |capture| (capture, self.read_until_answered(capture).await))
            .buffer_unordered(READS_AT_ONCE);
        let read: Vec<_> = read.collect().await;
        let mut at_rest = AtRest {
            obligations: status.shards.iter().map(|shard| shard.obligations).sum(),
            cases: self.cases().await.iter().map(|case| seen::case(&gallery(), case)).collect(),
            ..AtRest::default()
        };
        for (capture, told) in read {
            if let Told::Recorded(record) = told {
                // Only the latest verdict can be read.
                let verdicts = record.verdict.iter().cloned().collect();
                at_rest.enrolments.insert(key(&capture.id()), (record, verdicts));
            }
        }
        at_rest
    }

    /// Rest is a picture of all replicas in which nothing is owed, and which stays the same until every node has reported once more:
    /// reports of different nodes are of different moments.
    async fn look_whether_at_rest(
        &self,
        before: &RefCell<Option<(Instant, Vec<ReplicaSeen>)>>,
    ) -> Result<GetClusterStatusResponse, String> {
        self.sandbox.wait_ready().await.map_err(|error| error.to_string())?;
        let now = Instant::now();
        let status = self.status_beside(&[]).await?;
        let owed: u64 = status.shards.iter().map(|shard| shard.pending + shard.obligations).sum();
        let replicas = || status.shards.iter().flat_map(|shard| &shard.replicas);
        let behind = replicas().filter(|replica| replica.lag > 0).count();
        let stopped = replicas().find(|replica| replica.role() == ReplicaRole::Stopped);
        if let Some(stopped) = stopped {
            return Err(format!("replica {} has stopped: {}", stopped.replica, stopped.stopped_reason));
        }
        let picture: Vec<ReplicaSeen> = seen::replicas(&status).collect();
        let since = match &*before.borrow() {
            Some((since, same)) if *same == picture => Some(*since),
            Some(_) | None => None,
        };
        let Some(since) = since.filter(|_| owed == 0 && behind == 0) else {
            before.replace(Some((now, picture)));
            return Err(format!("{owed} staged or owed, {behind} replicas behind"));
        };
        let unheard =
            status.nodes.iter().filter(|node| Duration::from_millis(node.last_report_age_ms) >= since.elapsed());
        match unheard.count() {
            0 => Ok(status),
            unheard => Err(format!("{unheard} nodes have not reported since it was quiet")),
        }
    }

    async fn read_until_answered(&self, capture: Capture) -> Told {
        self.until(&format!("enrolment {}", capture.id()), async || match self.clients.read(0, capture).await {
            Told::Unavailable(reason) => Err(reason),
            told => Ok(told),
        })
        .await
    }

    /// Every case on record.
    pub(crate) async fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.until("a page of cases", async || {
                let page_token = page_token.clone();
                let request = ListCasesRequest { gallery: GALLERY.to_owned(), page_size: PAGE_SIZE, page_token };
                let page = CaseServiceClient::new(self.sandbox.channel(0)).list_cases(request).await;
                page.map_err(|status| status.to_string())
            });
            let page = page.await.into_inner();
            cases.extend(page.cases);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return cases;
            }
        }
    }

    /// Every state of a replica that was seen.
    pub(crate) fn watched(&self) -> MutexGuard<'_, BTreeSet<ReplicaSeen>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the replicas through one coordinator after another for as long as it is let.
pub(crate) async fn watch(channels: Vec<Channel>, watched: Arc<Mutex<BTreeSet<ReplicaSeen>>>) {
    let mut every = tokio::time::interval(WATCH_EVERY);
    for channel in channels.iter().cycle() {
        every.tick().await;
        let mut client = ClusterServiceClient::new(channel.clone());
        let asked = tokio::time::timeout(Duration::from_secs(1), client.get_cluster_status(GetClusterStatusRequest {}));
        // A coordinator that is down or paused shows nothing.
        if let Ok(Ok(status)) = asked.await {
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.extend(seen::replicas(status.get_ref()));
        }
    }
}
