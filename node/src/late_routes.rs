//! Routes that are there before the services behind them: until those come, every call is answered UNAVAILABLE. So a node can
//! listen and tell its health while it opens its volume and joins.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use tonic::Status;
use tonic::codegen::{Service as _, http};
use tonic::service::{AxumBody, AxumRouter, Routes};

/// Puts the services behind their routes.
pub(crate) struct Opener(Arc<OnceLock<AxumRouter>>);

/// Routes of services that come later.
pub(crate) fn late_routes() -> (Opener, Routes) {
    let services = Arc::new(OnceLock::<AxumRouter>::new());
    let behind = Arc::clone(&services);
    let router = AxumRouter::new().fallback(move |request: http::Request<AxumBody>| {
        let router = behind.get().cloned();
        async move {
            match router {
                Some(mut router) => router.call(request).await,
                None => Ok::<_, Infallible>(Status::unavailable("the node is starting").into_http()),
            }
        }
    });
    (Opener(services), Routes::from(router))
}

impl Opener {
    /// From now on these answer.
    pub(crate) fn open(&self, services: Routes) {
        let opened = self.0.set(services.prepare().into_axum_router());
        assert!(opened.is_ok(), "services are opened once");
    }
}
