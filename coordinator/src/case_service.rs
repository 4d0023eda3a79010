//! `CaseService`: reading and listing the cases that people must look at.

use std::sync::Arc;

use semel_index::shard_of;
use semel_proto::internal::v1 as wire;
use semel_proto::v1 as public;
use semel_proto::v1::case_service_server::CaseService;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::enrolment_service::{answer_by, call_timeout, names};
use crate::front::Front;
use crate::nodes::CallError;
use crate::status::ClientError;

const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;

/// Serves cases.
pub(crate) struct CaseServer {
    front: Arc<Front>,
}

impl CaseServer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front }
    }
}

/// Where a listing goes on: a shard, and the last case seen of it.
struct Place {
    shard: u32,
    after: String,
}

impl Place {
    fn parse(token: &str) -> Result<Self, ClientError> {
        if token.is_empty() {
            return Ok(Self { shard: 0, after: String::new() });
        }
        let parsed = token.split_once(':').and_then(|(shard, after)| {
            let is_case_id = after.len() == 32 && after.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            let after = Some(after).filter(|after| after.is_empty() || is_case_id)?;
            Some(Self { shard: shard.parse().ok()?, after: after.to_owned() })
        });
        parsed.ok_or_else(|| ClientError::field("page_token", "was not given out by ListCases"))
    }

    fn token(&self) -> String {
        format!("{}:{}", self.shard, self.after)
    }
}

async fn get(
    front: &Front,
    request: public::GetCaseRequest,
    deadline: Instant,
) -> Result<public::GetCaseResponse, ClientError> {
    let (gallery, one) = names(&request.gallery, &request.enrolment_id)?;
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    let home = if request.other_enrolment_id.is_empty() {
        one
    } else {
        let (_, other) = names(&request.gallery, &request.other_enrolment_id)?;
        if one == other {
            return Err(ClientError::field("other_enrolment_id", "must differ from enrolment_id"));
        }
        one.min(other)
    };
    let read = wire::ReadCaseRequest {
        shard: shard_of(&gallery, &home, shards).0,
        gallery: request.gallery,
        enrolment_id: request.enrolment_id,
        other_enrolment_id: request.other_enrolment_id,
        ..Default::default()
    };
    let answer = front.nodes.read_case(read, deadline).await.map_err(|error| match error {
        CallError::NotFound => ClientError::NoSuchRecord { what: "case", gallery: gallery.to_string() },
        error => error.into(),
    })?;
    Ok(public::GetCaseResponse { case: answer.case })
}

/// A page: shard after shard, by case id within each.
async fn list(
    front: &Front,
    request: public::ListCasesRequest,
    deadline: Instant,
) -> Result<public::ListCasesResponse, ClientError> {
    let page_size = match request.page_size {
        0 => PAGE_SIZE_DEFAULT,
        size if size <= PAGE_SIZE_MAX => size,
        size => return Err(ClientError::field("page_size", format!("is {size}, must be 0 to {PAGE_SIZE_MAX}"))),
    };
    let mut place = Place::parse(&request.page_token)?;
    front.gallery(&request.gallery, deadline).await?;
    let shards = front.shards().ok_or(ClientError::NotReady("its shards are not placed yet"))?;
    let mut cases = Vec::new();
    while place.shard < shards.get() {
        let left = page_size - u32::try_from(cases.len()).expect("a page is short");
        if left == 0 {
            return Ok(public::ListCasesResponse { cases, next_page_token: place.token() });
        }
        let scan = wire::ScanCasesRequest {
            shard: place.shard,
            gallery: request.gallery.clone(),
            after_case_id: place.after.clone(),
            cases_max: left,
            ..Default::default()
        };
        let answer = front.nodes.scan_cases(scan, deadline).await?;
        match answer.cases.last() {
            Some(last) if answer.more => place.after.clone_from(&last.case_id),
            Some(_) | None => place = Place { shard: place.shard + 1, after: String::new() },
        }
        cases.extend(answer.cases);
    }
    Ok(public::ListCasesResponse { cases, next_page_token: String::new() })
}

#[tonic::async_trait]
impl CaseService for CaseServer {
    async fn get_case(
        &self,
        request: Request<public::GetCaseRequest>,
    ) -> Result<Response<public::GetCaseResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let case = get(&self.front, request.into_inner(), deadline);
        Ok(Response::new(self.front.finish(case).await?))
    }

    async fn list_cases(
        &self,
        request: Request<public::ListCasesRequest>,
    ) -> Result<Response<public::ListCasesResponse>, Status> {
        let deadline = answer_by(0, call_timeout(&request))?;
        let cases = list(&self.front, request.into_inner(), deadline);
        Ok(Response::new(self.front.finish(cases).await?))
    }
}
