//! How the processes of a cluster read their settings: defaults, then a file, then the environment, then flags.

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting}: {reason}")]
pub struct SettingError {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl SettingError {
    /// Names the setting and says what is wrong.
    pub fn new(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, reason: reason.into() }
    }
}

/// Reads the layers in order: `defaults`, the TOML `file`, variables that start with `environment_prefix`, and `flags` (a map or
/// struct that holds only what was given). The error names the setting and the layer.
pub fn load<C: Serialize + DeserializeOwned>(
    defaults: C,
    file: Option<&Path>,
    environment_prefix: &str,
    flags: impl Serialize,
) -> Result<C, Box<figment::Error>> {
    let mut layers = Figment::from(Serialized::defaults(defaults));
    if let Some(file) = file {
        layers = layers.merge(Toml::file_exact(file));
    }
    let layers = layers.merge(Env::prefixed(environment_prefix)).merge(Serialized::defaults(flags));
    layers.extract().map_err(Box::new)
}

/// Checks that a number lies within its limits.
pub fn within(setting: &'static str, value: u64, min: u64, max: u64) -> Result<(), SettingError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(SettingError::new(setting, format!("{value} is outside {min} to {max}")))
}

/// Checks that `value` is an address to listen on, such as `0.0.0.0:7400`.
pub fn listen_address(setting: &'static str, value: &str) -> Result<std::net::SocketAddr, SettingError> {
    value
        .parse()
        .map_err(|_| SettingError::new(setting, format!("`{value}` is not an address and port, such as 0.0.0.0:7400")))
}

/// Checks that `value` is an address to listen on, or empty: then there is nothing to listen for.
pub fn optional_listen_address(setting: &'static str, value: &str) -> Result<(), SettingError> {
    if value.is_empty() { Ok(()) } else { listen_address(setting, value).map(|_| ()) }
}
