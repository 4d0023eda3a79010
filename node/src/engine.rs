//! Chooses the engines of sealed segments by name. The only place that knows which of them this build has.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use semel_index::{Engine, EngineName, Engines, ExactEngine, SketchEngine};
use semel_raft_host::settings::SettingError;

/// Engines that policies name and this node does not have, of which its log tells.
const MISSING_TOLD_MAX: usize = 64;

/// Makes the engine called `name`: `exact`, `sketch`, `faiss`, or `faiss:<factory string>`.
///
/// # Errors
/// [`SettingError`] names the setting `engine` and what it may be.
pub fn engine(name: &str) -> Result<Arc<dyn Engine>, SettingError> {
    match name.parse() {
        Ok(EngineName::Exact) => Ok(Arc::new(ExactEngine)),
        Ok(EngineName::Sketch) => Ok(Arc::new(SketchEngine)),
        Ok(EngineName::Faiss | EngineName::FaissFactory(_)) => faiss(name),
        Err(unknown) => Err(SettingError::new("engine", format!("is `{name}`, must be {unknown}"))),
    }
}

#[cfg(feature = "faiss")]
fn faiss(name: &str) -> Result<Arc<dyn Engine>, SettingError> {
    let engine = semel_index_faiss::FaissEngine::parse(name);
    Ok(Arc::new(engine.map_err(|error| SettingError::new("engine", error.to_string()))?))
}

#[cfg(not(feature = "faiss"))]
fn faiss(name: &str) -> Result<Arc<dyn Engine>, SettingError> {
    Err(SettingError::new("engine", format!("is `{name}`, and this build has no FAISS: must be exact or sketch")))
}

/// The engines that policies name. Tells the log once of each that this node does not have.
#[derive(Debug, Default)]
pub(crate) struct PolicyEngines {
    missing_told: Mutex<BTreeSet<String>>,
}

impl Engines for PolicyEngines {
    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        engine(name).inspect_err(|error| self.tell(name, error)).ok()
    }
}

impl PolicyEngines {
    fn tell(&self, name: &str, error: &SettingError) {
        let mut told = self.missing_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MISSING_TOLD_MAX && told.insert(name.to_owned()) {
            let reason = &error.reason;
            tracing::warn!(
                engine = name,
                reason,
                "a policy names an engine that this node does not have; that of its settings is used instead"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_engine_is_told_of_once() {
        let engines = PolicyEngines::default();
        for _ in 0..2 {
            assert!(engines.engine("exact").is_some() && engines.engine("magic").is_none());
        }
        assert_eq!(engines.missing_told.lock().expect("not poisoned").len(), 1);
        (0..2 * MISSING_TOLD_MAX).for_each(|number| drop(engines.engine(&format!("magic{number}"))));
        assert_eq!(engines.missing_told.lock().expect("not poisoned").len(), MISSING_TOLD_MAX);
    }
}
