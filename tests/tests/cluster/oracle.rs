//! The cluster's verdicts beside the exact oracle's: whom enrolling one by one must name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use semel_index::ComparisonScore;
use semel_population::{CaptureNumber, Oracle, PersonId, Population, Preset, RegistrationPlan, Seed, Workload};
use semel_proto::v1::CreateGalleryRequest;
use semel_sandbox::{Sandbox, requests};

use crate::exposition::scrape;
use crate::registry::{candidates, enrol, wait_quiet};

const GALLERY: &str = "people";
/// A cluster rotates embeddings before it makes them canonical: scores this close to the threshold may fall on either side.
const ROTATION_MICROS: i32 = 60;

async fn cluster(shards: u32, engine: &str, gallery: CreateGalleryRequest) -> Sandbox {
    // The least that can be asked for, so that segments are sealed early.
    let builder =
        Sandbox::builder().shards(shards).engine(engine).node_settings(|node| node.seal_at_references = 1_024);
    let sandbox = builder.start().await.expect("the cluster starts");
    sandbox.galleries().create_gallery(gallery).await.expect("the gallery is created");
    sandbox
}

/// Enrols the embeddings one by one and checks each verdict's candidates; tells how many pairs were named.
async fn assert_names_what_the_oracle_names(
    sandbox: &Sandbox,
    embeddings: &[Vec<f32>],
    threshold: f64,
    request: impl Fn(&str, &[f32]) -> semel_proto::v1::EnrolRequest,
) -> usize {
    let oracle = Oracle::from_embeddings(embeddings[0].len() as u32, embeddings).expect("these are embeddings");
    let bound = ComparisonScore::from_micros(requests::micros(threshold) - ROTATION_MICROS).expect("in range");
    let pairs = oracle.pairs_reaching(0..oracle.rows(), bound);
    let client = sandbox.enrolments();
    let mut named = 0;
    for (row, embedding) in (0_u32..).zip(embeddings) {
        let enrolment = enrol(&client, &request(&format!("r{row}"), embedding)).await;
        let found = candidates(&enrolment);
        let of_row = pairs.iter().filter(|pair| pair.later.0 == row);
        let (sure, open): (Vec<_>, Vec<_>) =
            of_row.partition(|pair| pair.score.micros() >= requests::micros(threshold) + ROTATION_MICROS);
        let ids = |pairs: &[&semel_population::ScoredPair]| -> BTreeSet<String> {
            pairs.iter().map(|pair| format!("r{}", pair.earlier.0)).collect()
        };
        let (sure, open) = (ids(&sure), ids(&open));
        assert!(sure.is_subset(&found), "row {row} misses {:?}", sure.difference(&found).collect::<Vec<_>>());
        let beyond: Vec<_> = found.difference(&sure).filter(|id| !open.contains(*id)).collect();
        assert!(beyond.is_empty(), "row {row} names {beyond:?}, which are below the threshold");
        named += found.len();
    }
    named
}

fn voices() -> Vec<Vec<f32>> {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/voices_ge2e256.npy");
    let bytes = fs::read(file).expect("the voices ship with the project");
    let array = npyz::NpyFile::new(&bytes[..]).expect("an npy file");
    let components = usize::try_from(array.shape()[1]).expect("256");
    let values: Vec<f32> = array.into_vec().expect("of 32-bit floats");
    values.chunks_exact(components).map(<[f32]>::to_vec).collect()
}

#[tokio::test]
async fn enrolling_the_real_voices_one_by_one_names_whom_the_exact_oracle_names() {
    let voices = voices();
    assert_eq!(voices.len(), 525);
    let sandbox = cluster(8, "exact", requests::voice_gallery(GALLERY, 256, 0.8)).await;
    let request = |id: &str, embedding: &[f32]| requests::voice_enrolment(GALLERY, id, embedding);
    let named = assert_names_what_the_oracle_names(&sandbox, &voices, 0.8, request).await;
    assert!((2_500..2_510).contains(&named), "{named} pairs reach the threshold");
}

/// Mates are never lost to an engine of sealed segments on a set this size.
#[tokio::test]
async fn enrolling_faces_one_by_one_into_sealed_segments_names_whom_the_exact_oracle_names() {
    const PEOPLE: u32 = 2_400;
    let engines: &[&str] = if cfg!(feature = "faiss") { &["sketch", "faiss"] } else { &["sketch"] };
    let threshold = 0.42;
    let population = Population::new(Preset::F1, Seed(41), PEOPLE);
    let workload = Workload { repeats_share: 0.05, ..Workload::default() };
    let plan = RegistrationPlan::new(&workload, Seed(42), PEOPLE).expect("the shares are in range");
    let faces: Vec<Vec<f32>> = plan
        .registrations()
        .map(|registration| population.capture(registration.person, registration.capture))
        .collect();
    for engine in engines {
        let sandbox = cluster(1, engine, requests::face_gallery(GALLERY, 512, threshold)).await;
        let request = |id: &str, embedding: &[f32]| requests::face_enrolment(GALLERY, id, embedding);
        let named = assert_names_what_the_oracle_names(&sandbox, &faces, threshold, request).await;
        assert!(named >= 100, "{engine}: {named} pairs named");
        let status = wait_quiet(&sandbox, GALLERY).await;
        for replica in &status.shards[0].replicas {
            assert!(replica.references_sealed >= 1_024, "{engine}: nothing was sealed: {replica:?}");
        }
        assert_audited(&sandbox, &population, request).await;
    }
}

/// Enrols until a node has audited a search in sealed segments; nothing was missed.
async fn assert_audited(
    sandbox: &Sandbox,
    population: &Population,
    request: impl Fn(&str, &[f32]) -> semel_proto::v1::EnrolRequest,
) {
    let mut searches = 1_000;
    loop {
        let mut planted = 0.0;
        for node in 0..3 {
            let shown = scrape(sandbox.node_metrics(node).await.expect("it exists")).await;
            let of_gallery =
                |name: &str| shown.get(&format!("semel_recall_{name}{{gallery=\"{GALLERY}\"}}")).unwrap_or(0.0);
            planted += of_gallery("planted_mates_total");
            for silent in ["planted_mates_missed_total", "live_mates_missed_total", "over_budget"] {
                assert_eq!(of_gallery(silent), 0.0, "{silent}");
            }
        }
        if planted > 0.0 {
            return;
        }
        assert!(searches < 6_000, "no audit");
        for _ in 0..50 {
            let face = population.capture(PersonId(0), CaptureNumber(searches));
            enrol(&sandbox.enrolments(), &request(&format!("again-{searches}"), &face)).await;
            searches += 1;
        }
    }
}
