//! The option `--config`.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError, LoadedConfig};

#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file; default: config.toml in the working directory, then /etc/mongate/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads and checks the configuration.
    pub(super) fn load(&self) -> Result<LoadedConfig, ConfigError> {
        Config::load(self.config.as_deref())
    }

    /// Whether the option was given.
    pub(super) fn is_given(&self) -> bool {
        self.config.is_some()
    }
}
