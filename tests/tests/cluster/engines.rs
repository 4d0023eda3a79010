//! The engine of sealed segments as a gallery's policy names it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use semel_population::{CaptureNumber, PersonId, Population, Preset, Seed};
use semel_proto::v1::identify_response::Outcome;
use semel_proto::v1::{Candidate, EngineStatus, IdentifyRequest, Modality, Policy, UpdatePolicyRequest};
use semel_sandbox::{Sandbox, requests, wait_until};
use tonic::Code;

use crate::exposition::{LABELS_OF_NOTHING_YET, scrape};
use crate::registry::{enrol, wait_quiet};

const GALLERY: &str = "people";
const DIMENSION: u32 = 512;
const REPLICAS: u32 = 3;
/// A few more than the shortest segment that a node seals.
const PEOPLE: u32 = 1_060;
const PROBES: u32 = 12;
const BUILT_WITHIN: Duration = Duration::from_secs(60);

fn policy(engine: &str) -> Policy {
    let faces = requests::embedding_policy(Modality::Face, DIMENSION, 0.42);
    Policy { identification_allowed: true, engine: engine.to_owned(), ..faces }
}

async fn update(sandbox: &Sandbox, engine: &str) -> Result<Policy, tonic::Status> {
    let request = UpdatePolicyRequest { name: GALLERY.to_owned(), policy: Some(policy(engine)), ..Default::default() };
    let updated = sandbox.galleries().update_policy(request).await?.into_inner();
    Ok(updated.gallery.and_then(|gallery| gallery.policy).expect("it has a policy"))
}

/// The candidates of each probe.
async fn identified(sandbox: &Sandbox, population: &Population) -> Vec<Vec<Candidate>> {
    let mut found = Vec::new();
    for person in 0..PROBES {
        let face = population.capture(PersonId(person), CaptureNumber(1));
        let request = IdentifyRequest {
            gallery: GALLERY.to_owned(),
            references: vec![requests::embedding_reference(Modality::Face, &face)],
            purpose: "test".to_owned(),
            ..Default::default()
        };
        let answer = sandbox.identification().identify(request).await.expect("an answer").into_inner();
        match answer.outcome.expect("an answer has an outcome") {
            Outcome::Complete(complete) => found.push(complete.candidates),
            Outcome::Incomplete(incomplete) => panic!("{incomplete:?}"),
        }
    }
    found
}

/// What searches sealed segments, on each replica.
async fn engines(sandbox: &Sandbox) -> Vec<Vec<EngineStatus>> {
    let status = sandbox.status().await.expect("a status");
    status.shards.iter().flat_map(|shard| &shard.replicas).map(|replica| replica.engines.clone()).collect()
}

/// Once every replica was told of a version of the policy, each segment either has its engine or waits for it; `false` before.
async fn is_told_and_shown(sandbox: &Sandbox, policy: &Policy) -> bool {
    let status = sandbox.status().await.expect("a status");
    let [gallery] = status.galleries.as_slice() else { panic!("{:?}", status.galleries) };
    assert_eq!(gallery.policy_version, policy.version);
    assert!(gallery.policy_version_told <= policy.version, "{gallery:?}");
    let is_told = gallery.policy_version_told == policy.version;
    let segments = status.shards.iter().flat_map(|shard| &shard.replicas).flat_map(|replica| &replica.engines);
    let is_shown = |segment: &EngineStatus| [&segment.engine, &segment.waits_for].contains(&&policy.engine);
    assert!(!is_told || segments.clone().all(is_shown), "{status:?}");
    is_told
}

/// Waits until every replica has one sealed segment, and tells this of it.
async fn wait_for_engine(sandbox: &Sandbox, wanted: &EngineStatus) {
    let built = wait_until("the engine of the policy", BUILT_WITHIN, || async {
        let found = engines(sandbox).await;
        let is_built = |replica: &Vec<EngineStatus>| replica.as_slice() == std::slice::from_ref(wanted);
        if found.len() == REPLICAS as usize && found.iter().all(is_built) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    built.await.unwrap_or_else(|error| panic!("{error}"));
}

fn one_segment(engine: &str) -> EngineStatus {
    EngineStatus { engine: engine.to_owned(), segments: 1, ..Default::default() }
}

/// Where an engine has a part in searches, metrics that are empty elsewhere have the labels that the page of metrics names.
async fn check_labels_of_the_audit(sandbox: &Sandbox, population: &Population) {
    update(sandbox, "sketch").await.expect("permitted");
    wait_for_engine(sandbox, &one_segment("sketch")).await;
    let shown = wait_until("an audit", BUILT_WITHIN, || async {
        identified(sandbox, population).await;
        let mut audited = Vec::new();
        for node in 0..REPLICAS as usize {
            let shown = scrape(sandbox.node_metrics(node).await.expect("it exists")).await;
            audited.extend(Some(shown).filter(|shown| shown.0["semel_recall_live_probes_total"].samples.len() == 1));
        }
        audited.pop().ok_or("no node has audited a search yet")
    });
    let shown = shown.await.unwrap_or_else(|error| panic!("{error}"));
    for (beginning, label) in LABELS_OF_NOTHING_YET {
        for (name, family) in shown.0.iter().filter(|(name, _)| name.starts_with(beginning)) {
            assert_eq!(family.labels(), BTreeSet::from([label.to_owned()]), "{name}");
        }
    }
}

#[tokio::test]
async fn a_policy_changes_the_engine_of_sealed_segments_while_every_search_answers_the_same() {
    let builder = Sandbox::builder().nodes(REPLICAS as usize).replicas(REPLICAS).shards(1).engine("exact");
    let builder = builder.node_settings(|node| node.seal_at_references = 1_024);
    let sandbox = builder.start().await.expect("the cluster starts");
    let request = requests::gallery(GALLERY, policy("exact"));
    let gallery = sandbox.galleries().create_gallery(request).await.expect("created").into_inner().gallery;
    assert_eq!(gallery.and_then(|gallery| gallery.policy).map(|policy| policy.engine).as_deref(), Some("exact"));

    let population = Population::new(Preset::F1, Seed(41), PEOPLE);
    let client = sandbox.enrolments();
    futures::stream::iter(0..PEOPLE)
        .map(|person| {
            let face = population.capture(PersonId(person), CaptureNumber(0));
            let (client, request) = (client.clone(), requests::face_enrolment(GALLERY, &format!("p{person}"), &face));
            async move { enrol(&client, &request).await }
        })
        .buffer_unordered(32)
        .collect::<Vec<_>>()
        .await;
    wait_quiet(&sandbox, GALLERY).await;
    let expected = identified(&sandbox, &population).await;
    assert!(expected.iter().filter(|candidates| !candidates.is_empty()).count() as u32 >= PROBES - 1, "{expected:?}");

    // Nobody searches meanwhile: replicas are told all the same.
    for engine in ["exact", "sketch", "exact"] {
        assert_eq!(update(&sandbox, engine).await.expect("permitted").engine, engine);
        wait_for_engine(&sandbox, &one_segment(engine)).await;
        assert_eq!(identified(&sandbox, &population).await, expected);
    }
    for engine in ["sketch", "exact"] {
        let policy = update(&sandbox, engine).await.expect("permitted");
        assert_eq!(policy.engine, engine);
        let told = wait_until("replicas to be told of the policy", BUILT_WITHIN, || async {
            if is_told_and_shown(&sandbox, &policy).await { Ok(()) } else { Err("not yet") }
        });
        told.await.unwrap_or_else(|error| panic!("{error}"));
        let built = wait_until("the engine of the policy", BUILT_WITHIN, || async {
            assert_eq!(identified(&sandbox, &population).await, expected);
            let found = engines(&sandbox).await;
            if found.concat().iter().all(|one| *one == one_segment(engine)) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        built.await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(identified(&sandbox, &population).await, expected);
    }

    check_labels_of_the_audit(&sandbox, &population).await;

    if cfg!(feature = "faiss") {
        // It needs 39 references for each of its lists, far more than there are.
        update(&sandbox, "faiss:IVF4096,Flat").await.expect("permitted");
        let waits_for = "faiss:IVF4096,Flat".to_owned();
        wait_for_engine(&sandbox, &EngineStatus { waits_for, references_min: 159_744, ..one_segment("sketch") }).await;
        assert_eq!(identified(&sandbox, &population).await, expected);
    }

    for (engine, message) in [("magic", "engine must be exact, sketch, faiss or"), ("faiss:PQ96x4fs", "multiple of 96")]
    {
        let refused = update(&sandbox, engine).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(message), "{}", refused.message());
    }
}
