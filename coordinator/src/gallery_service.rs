//! `GalleryService`: galleries and their policies.

use std::sync::Arc;
use std::time::Duration;

use semel_coordinator_wire as convert;
use semel_index::{GalleryId, KeyVersion, PolicyVersion};
use semel_proto::v1 as public;
use semel_proto::v1::gallery_service_server::GalleryService;
use semel_workflow::{GalleryKey, MetadataCommand, MetadataReceipt, MetadataRefusal, Rotations};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::enrolment_service::{answer_by, call_timeout};
use crate::front::Front;
use crate::metadata::refused;
use crate::status::ClientError;

/// The version of the key that a gallery is created with.
const KEY_VERSION_FIRST: KeyVersion = KeyVersion(1);

/// Serves galleries.
pub(crate) struct GalleryServer {
    front: Arc<Front>,
}

impl GalleryServer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

fn name_of(name: &str) -> Result<GalleryId, ClientError> {
    GalleryId::try_from(name).map_err(|error| ClientError::field("name", format!("must be {}", error.rule)))
}

fn gallery(receipt: MetadataReceipt) -> Result<public::Gallery, ClientError> {
    match refused(receipt).map_err(ClientError::MetadataRefused)? {
        MetadataReceipt::Gallery(record) => Ok(convert::gallery_of(&record)),
        MetadataReceipt::Cluster(_)
        | MetadataReceipt::Move(_)
        | MetadataReceipt::CoordinatorReplicas(_)
        | MetadataReceipt::Done
        | MetadataReceipt::Refused(_) => Err(ClientError::MetadataRefused(MetadataRefusal::Malformed)),
    }
}

async fn create(
    front: &Front,
    request: public::CreateGalleryRequest,
    call_timeout: Option<Duration>,
) -> Result<public::Gallery, ClientError> {
    let name = name_of(&request.name)?;
    let policy = request.policy.ok_or_else(|| ClientError::field("policy", "is required"))?;
    let policy = convert::policy_request(policy).validate()?;
    // The key is drawn here, once: if the proposal is repeated, the gallery on record keeps the first.
    let key = GalleryKey::from_secret(rand::random());
    let (for_rotations, rules) = (key.clone(), policy.clone());
    let rotations =
        tokio::task::spawn_blocking(move || Rotations::generate(&for_rotations, KEY_VERSION_FIRST, &rules).checksum());
    let key_checksum = rotations.await.expect("making rotations does not panic");
    // Drawing a large matrix takes longer than the group has to answer, so its time counts from here.
    let deadline = answer_by(0, call_timeout)?;
    let command =
        MetadataCommand::CreateGallery { name, policy, key, key_checksum, created_at_ms: crate::clock::now_ms() };
    gallery(front.metadata.propose(&command, deadline).await?)
}

async fn update(
    front: &Front,
    request: public::UpdatePolicyRequest,
    deadline: Instant,
) -> Result<public::Gallery, ClientError> {
    let name = name_of(&request.name)?;
    let policy = request.policy.ok_or_else(|| ClientError::field("policy", "is required"))?;
    let policy = convert::policy_request(policy).validate()?;
    // "Whichever is current" is resolved once, so that the proposal, if it is repeated, cannot undo somebody else's update in between.
    let expected = match request.expected_version {
        0 => front.gallery(&request.name, deadline).await?.policy.version,
        version => PolicyVersion(version),
    };
    let command = MetadataCommand::UpdatePolicy { name, policy, expected: Some(expected) };
    gallery(front.metadata.propose(&command, deadline).await?)
}

/// The status of a refused command about a gallery or node.
pub(crate) fn refusal_code(refusal: &MetadataRefusal) -> Code {
    match refusal {
        MetadataRefusal::Malformed => Code::Internal,
        MetadataRefusal::NotInitialised | MetadataRefusal::NotPlaced { .. } => Code::Unavailable,
        MetadataRefusal::GalleryExists => Code::AlreadyExists,
        MetadataRefusal::NoSuchGallery
        | MetadataRefusal::NoSuchNode { .. }
        | MetadataRefusal::NoSuchCoordinator { .. } => Code::NotFound,
        MetadataRefusal::SpecsChanged => Code::InvalidArgument,
        MetadataRefusal::VersionMismatch { .. } => Code::Aborted,
        MetadataRefusal::EmptiedVolume { .. }
        | MetadataRefusal::TooFewNodes { .. }
        | MetadataRefusal::NoReplicaThere { .. }
        | MetadataRefusal::ReplicaThereAlready { .. }
        | MetadataRefusal::MoveUnderWay { .. }
        | MetadataRefusal::NoSuchMove { .. }
        | MetadataRefusal::MoveGivenUp { .. }
        | MetadataRefusal::NodeInUse { .. }
        | MetadataRefusal::ReplacementUnderWay { .. } => Code::FailedPrecondition,
        MetadataRefusal::TooManyGalleries { .. }
        | MetadataRefusal::TooManyPolicyVersions { .. }
        | MetadataRefusal::TooManyNodes { .. }
        | MetadataRefusal::TooManyMoves { .. }
        | MetadataRefusal::ReplicaIdsExhausted => Code::ResourceExhausted,
    }
}

#[tonic::async_trait]
impl GalleryService for GalleryServer {
    async fn create_gallery(
        &self,
        request: Request<public::CreateGalleryRequest>,
    ) -> Result<Response<public::CreateGalleryResponse>, Status> {
        let timeout = call_timeout(&request);
        let gallery = self.front.finish(create(&self.front, request.into_inner(), timeout)).await?;
        Ok(Response::new(public::CreateGalleryResponse { gallery: Some(gallery) }))
    }

    async fn get_gallery(
        &self,
        request: Request<public::GetGalleryRequest>,
    ) -> Result<Response<public::GetGalleryResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let gallery = self.front.finish(self.front.gallery(&request.get_ref().name, deadline)).await?;
        let gallery = Some(convert::gallery_of(&gallery.record));
        Ok(Response::new(public::GetGalleryResponse { gallery }))
    }

    async fn list_galleries(
        &self,
        request: Request<public::ListGalleriesRequest>,
    ) -> Result<Response<public::ListGalleriesResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let view = async { Ok(self.front.metadata.current(deadline).await?) };
        let view = self.front.finish(view).await?;
        let galleries = view.galleries().map(|gallery| convert::gallery_of(&gallery)).collect();
        Ok(Response::new(public::ListGalleriesResponse { galleries }))
    }

    async fn update_policy(
        &self,
        request: Request<public::UpdatePolicyRequest>,
    ) -> Result<Response<public::UpdatePolicyResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let gallery = self.front.finish(update(&self.front, request.into_inner(), deadline)).await?;
        Ok(Response::new(public::UpdatePolicyResponse { gallery: Some(gallery) }))
    }
}
