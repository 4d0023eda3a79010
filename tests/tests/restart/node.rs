//! A node as coordinators speak to it, and people made of nothing but their number.

use futures::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use semel_index::{
    CanonicalEmbedding, ComparisonScore, EnrolmentId, GalleryId, KeyVersion, Modality, Position, ProbeReference,
    SearchProbe, ShardCount, ShardSearch, Slot, StagedEnrolment, StagedReference, Template, TemplateSpec, shard_of,
};
use semel_proto::internal::v1 as wire;
use semel_proto::internal::v1::shard_result::Outcome;
use semel_proto::internal::v1::shard_service_client::ShardServiceClient;
use semel_proto::v1 as public;
use semel_sandbox::Sandbox;
use tonic::transport::{Channel, Endpoint};

pub(crate) const DIMENSION: u32 = 512;
const GALLERY: &str = "people";
/// Mates score about .7, strangers 0 ± .04.
const THRESHOLD_MICROS: i32 = 400_000;
const MISS_BUDGET_PPB: u32 = 30_000;
const CANDIDATES_MAX: usize = 16;
const IN_FLIGHT: usize = 512;

fn gallery() -> GalleryId {
    GalleryId::try_from(GALLERY).expect("valid")
}

fn id(number: u32) -> EnrolmentId {
    EnrolmentId::try_from(format!("p{number:08}")).expect("valid")
}

fn slot() -> Slot {
    Slot::new(Modality::Face, Position::Only).expect("exists")
}

fn values(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..DIMENSION).map(|_| random.random::<f32>() - 0.5).collect()
}

fn embedding(values: &[f32]) -> Template {
    Template::Embedding(CanonicalEmbedding::from_f32(values).expect("valid"))
}

/// The template that somebody enrolled with.
fn person(number: u32) -> Template {
    embedding(&values(u64::from(number)))
}

/// Another capture of somebody.
fn captured_again(number: u32) -> Template {
    let noise = values(1 << 40 | u64::from(number));
    let mixed: Vec<f32> = values(u64::from(number)).iter().zip(noise).map(|(own, noise)| own + noise).collect();
    embedding(&mixed)
}

pub(crate) fn staged(number: u32) -> StagedEnrolment {
    let spec = TemplateSpec::Embedding { dimension: DIMENSION };
    let references = vec![StagedReference { slot: slot(), spec, template: person(number) }];
    StagedEnrolment { gallery: gallery(), enrolment_id: id(number), key_version: KeyVersion(1), references }
}

/// Probes spread over all who are enrolled, each second one of somebody who is not.
pub(crate) fn probes(count: u32, references: u32) -> Vec<SearchProbe> {
    let probe = |place: u32| {
        let number = (u64::from(place) * u64::from(references) / u64::from(count)) as u32;
        let number = if place % 2 == 1 { number } else { number + (1 << 30) };
        SearchProbe {
            gallery: gallery(),
            key_version: KeyVersion(1),
            references: vec![ProbeReference {
                slot: slot(),
                spec: TemplateSpec::Embedding { dimension: DIMENSION },
                template: captured_again(number),
                threshold: ComparisonScore::from_micros(THRESHOLD_MICROS).expect("in range"),
                miss_budget_ppb: MISS_BUDGET_PPB,
            }],
            exclude: None,
            candidates_max: CANDIDATES_MAX,
        }
    };
    (0..count).map(probe).collect()
}

fn reference(template: &Template) -> wire::CanonicalReference {
    let kind = public::template_spec::Kind::Embedding(public::EmbeddingSpec { dimension: DIMENSION });
    wire::CanonicalReference {
        modality: i32::from(slot().modality().code()),
        position: i32::from(slot().position().code()),
        spec: Some(public::TemplateSpec { kind: Some(kind) }),
        template: template.to_bytes().into(),
        quality: None,
        algorithm_id: String::new(),
    }
}

/// What all shards together answered to one probe: how many were compared, and who with which margin.
pub(crate) type Answer = (u64, Vec<(i32, String)>);

/// The answers of one catalogue of everybody.
pub(crate) fn merged(answers: &[ShardSearch]) -> Vec<Answer> {
    let answer = |answer: &ShardSearch| {
        let candidates = answer.candidates.iter().map(|found| (-found.margin, found.enrolment_id.to_string()));
        (answer.compared, candidates.collect())
    };
    answers.iter().map(answer).collect()
}

/// A connection to the only node of a cluster.
pub(crate) struct Node {
    client: ShardServiceClient<Channel>,
    cluster: Vec<u8>,
    shards: u32,
}

impl Node {
    pub(crate) async fn connect(sandbox: &Sandbox, shards: u32) -> Self {
        let address = sandbox.node_address(0).await.expect("there is a node");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
        let client = ShardServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
        let text = sandbox.status().await.expect("the coordinator answers").cluster_id;
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
        Self { client, cluster: (0..text.len()).step_by(2).map(byte).collect(), shards }
    }

    /// Stages as many; returns how many each shard has.
    pub(crate) async fn stage_all(&self, references: u32) -> Vec<usize> {
        let shards = ShardCount::new(self.shards).expect("in range");
        let mut by_shard = vec![0; self.shards as usize];
        let staging = futures::stream::iter(0..references).map(|number| {
            let shard = shard_of(&gallery(), &id(number), shards).0;
            async move {
                self.stage(number, shard).await;
                shard
            }
        });
        let mut staging = staging.buffer_unordered(IN_FLIGHT);
        while let Some(shard) = staging.next().await {
            by_shard[shard as usize] += 1;
        }
        by_shard
    }

    async fn stage(&self, number: u32, shard: u32) {
        let stage = wire::StageCommand {
            gallery: GALLERY.to_owned(),
            enrolment_id: id(number).to_string(),
            references: vec![reference(&person(number))],
            policy_version: 1,
            key_version: 1,
            content_digest: vec![1; 32].into(),
            ..Default::default()
        };
        let command = wire::Command { command: Some(wire::command::Command::Stage(stage)) };
        let request = wire::ProposeRequest { cluster_id: self.cluster.clone().into(), shard, command: Some(command) };
        let mut tries = 0;
        while let Err(status) = self.client.clone().propose(request.clone()).await {
            tries += 1;
            assert!(tries < 100, "{status}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The merged answers of all shards.
    pub(crate) async fn search(&self, probes: &[SearchProbe]) -> Vec<Answer> {
        self.try_search(probes).await.expect("every shard answers")
    }

    pub(crate) async fn try_search(&self, probes: &[SearchProbe]) -> Result<Vec<Answer>, String> {
        let probe = |probe: &SearchProbe| {
            let asked = probe.references.iter().map(|asked| wire::ProbeReference {
                reference: Some(reference(&asked.template)),
                threshold_micros: asked.threshold.micros(),
            });
            wire::SearchProbe {
                gallery: GALLERY.to_owned(),
                key_version: 1,
                references: asked.collect(),
                exclude_enrolment_id: String::new(),
                candidates_max: CANDIDATES_MAX as u32,
                miss_budget_ppb: MISS_BUDGET_PPB,
                policy_version: 0,
                engine: String::new(),
            }
        };
        let request = wire::SearchRequest {
            cluster_id: self.cluster.clone().into(),
            shards: (0..self.shards).collect(),
            probes: probes.iter().map(probe).collect(),
            ..Default::default()
        };
        let answered = self.client.clone().search(request).await.map_err(|status| status.to_string())?;
        let mut merged: Vec<Answer> = probes.iter().map(|_| (0, Vec::new())).collect();
        for result in answered.into_inner().results {
            let answer = match result.outcome {
                Some(Outcome::Answer(answer)) => answer,
                Some(Outcome::Error(error)) => return Err(format!("shard {}: {error}", result.shard)),
                None => return Err(format!("shard {} says nothing", result.shard)),
            };
            for ((compared, candidates), answer) in merged.iter_mut().zip(answer.probes) {
                *compared += answer.compared;
                candidates.extend(answer.candidates.into_iter().map(|one| (-one.margin_micros, one.enrolment_id)));
            }
        }
        for (_, candidates) in &mut merged {
            candidates.sort();
            candidates.truncate(CANDIDATES_MAX);
        }
        Ok(merged)
    }
}
