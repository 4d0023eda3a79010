//! The engine of sealed segments as a gallery's policy names it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use semel_population::{CaptureNumber, PersonId, Population, Preset, Seed};
use semel_proto::v1::identify_response::Outcome;
use semel_proto::v1::{Candidate, IdentifyRequest, Modality, Policy, UpdatePolicyRequest};
use semel_sandbox::{Sandbox, requests, wait_until};
use tonic::Code;

use crate::registry::{enrol, wait_quiet};

const GALLERY: &str = "people";
const DIMENSION: u32 = 512;
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

/// What searches sealed segments, on any replica.
async fn engines(sandbox: &Sandbox) -> BTreeSet<(String, u64)> {
    let status = sandbox.status().await.expect("a status");
    let replicas = status.shards.iter().flat_map(|shard| &shard.replicas);
    replicas.flat_map(|replica| &replica.engines).map(|one| (one.engine.clone(), one.segments)).collect()
}

#[tokio::test]
async fn a_policy_changes_the_engine_of_sealed_segments_while_every_search_answers_the_same() {
    // One replica, because only those that are searched learn of policies.
    let builder = Sandbox::builder().nodes(1).replicas(1).shards(1).engine("exact");
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

    for engine in ["exact", "sketch", "exact"] {
        assert_eq!(update(&sandbox, engine).await.expect("permitted").engine, engine);
        let wanted = BTreeSet::from([(engine.to_owned(), 1)]);
        let built = wait_until("the engine of the policy", BUILT_WITHIN, || async {
            assert_eq!(identified(&sandbox, &population).await, expected);
            let found = engines(&sandbox).await;
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
        built.await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(identified(&sandbox, &population).await, expected);
    }

    for (engine, message) in [("magic", "engine must be exact, sketch, faiss or"), ("faiss:PQ96x4fs", "multiple of 96")]
    {
        let refused = update(&sandbox, engine).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(message), "{}", refused.message());
    }
}
