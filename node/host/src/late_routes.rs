//! Routes that are there before the services behind them: until those come, every call is answered UNAVAILABLE. So a process can
//! listen and tell its health while it opens its volume and joins.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tonic::Status;
use tonic::codegen::{Service as _, http};
use tonic::service::{AxumBody, AxumRouter, Routes};

/// Puts the services behind their routes.
#[derive(Debug, Clone)]
pub struct Opener(Arc<Behind>);

#[derive(Debug)]
struct Behind {
    services: OnceLock<AxumRouter>,
    /// What callers are told until then.
    reason: RwLock<String>,
}

/// Routes of services that come later; until they do, callers are told `reason`.
pub fn late_routes(reason: &str) -> (Opener, Routes) {
    let behind = Arc::new(Behind { services: OnceLock::new(), reason: RwLock::new(reason.to_owned()) });
    let asked = Arc::clone(&behind);
    let router = AxumRouter::new().fallback(move |request: http::Request<AxumBody>| {
        let router = asked.services.get().cloned();
        let asked = Arc::clone(&asked);
        async move {
            match router {
                Some(mut router) => router.call(request).await,
                None => Ok::<_, Infallible>(Status::unavailable(asked.reason()).into_http()),
            }
        }
    });
    (Opener(behind), Routes::from(router))
}

impl Behind {
    fn reason(&self) -> String {
        self.reason.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Opener {
    /// What callers are told now.
    pub fn reason(&self) -> String {
        self.0.reason()
    }

    /// What callers are told from now on.
    pub fn tell(&self, reason: &str) {
        reason.clone_into(&mut self.0.reason.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on these answer.
    pub fn open(&self, services: Routes) {
        let opened = self.0.services.set(services.prepare().into_axum_router());
        assert!(opened.is_ok(), "services are opened once");
    }
}
