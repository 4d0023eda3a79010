//! Version 4 of the stored and replicated bytes of the metadata group: what the versions before have no word for, policies that name an
//! engine. Never edited: a change is a new version beside it.
//!
//! As in `v1`, these structures carry bytes and nothing else.

use prost::{Message, Oneof};

use crate::v1;

/// The first byte of every value of this version.
pub(crate) const VERSION: u8 = 4;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommandBytes {
    #[prost(oneof = "Kind", tags = "1, 2")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    CreateGallery(CreateGalleryBytes),
    #[prost(message, tag = "2")]
    UpdatePolicy(UpdatePolicyBytes),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateGalleryBytes {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<v1::CreateGalleryBytes>,
    #[prost(string, tag = "2")]
    pub(crate) engine: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdatePolicyBytes {
    #[prost(message, optional, tag = "1")]
    pub(crate) update: Option<v1::UpdatePolicyBytes>,
    #[prost(string, tag = "2")]
    pub(crate) engine: String,
}

/// The row of a policy.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PolicyBytes {
    #[prost(message, optional, tag = "1")]
    pub(crate) policy: Option<v1::PolicyBytes>,
    #[prost(string, tag = "2")]
    pub(crate) engine: String,
}
