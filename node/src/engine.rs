//! Chooses the engine of sealed segments by name. The only place that knows which engines exist.

use std::sync::Arc;

use semel_index::{Engine, ExactEngine, SketchEngine};

use semel_raft_host::settings::SettingError;

/// Makes the engine called `name`: `exact`, `sketch`, `faiss`, or `faiss:<factory string>`.
///
/// # Errors
/// [`SettingError`] names the setting `engine` and what it may be.
pub fn engine(name: &str) -> Result<Arc<dyn Engine>, SettingError> {
    match name {
        "exact" => return Ok(Arc::new(ExactEngine)),
        "sketch" => return Ok(Arc::new(SketchEngine)),
        _ => {}
    }
    #[cfg(feature = "faiss")]
    if name == "faiss" || name.starts_with("faiss:") {
        let engine = semel_index_faiss::FaissEngine::parse(name)
            .map_err(|error| SettingError::new("engine", error.to_string()))?;
        return Ok(Arc::new(engine));
    }
    let known = if cfg!(feature = "faiss") {
        "`exact`, `sketch`, `faiss` or `faiss:<factory string>`"
    } else {
        "`exact` or `sketch`: this build has no FAISS"
    };
    Err(SettingError::new("engine", format!("`{name}` is not {known}")))
}
