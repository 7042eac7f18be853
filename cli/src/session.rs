//! What every verb has: the output format, the scheduler's address, the config file.

use crate::client::{Client, DEFAULT_SERVER};
use crate::config::Config;
use crate::fail::Failure;
use crate::output::Format;

/// One run of the executable.
pub(crate) struct Session {
    pub(crate) format: Format,
    /// From `--server` or GANGSAW_SERVER.
    pub(crate) server: Option<String>,
    pub(crate) config: Config,
}

impl Session {
    /// The scheduler's address: flag, environment, config, default.
    pub(crate) fn address(&self) -> &str {
        self.server.as_deref().or(self.config.server.as_deref()).unwrap_or(DEFAULT_SERVER)
    }

    /// Connects to the scheduler.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(self.address(), token()).await
    }
}

/// The token somebody set for this process.
pub(crate) fn token() -> Option<String> {
    std::env::var("GANGSAW_TOKEN").ok().filter(|token| !token.trim().is_empty())
}
