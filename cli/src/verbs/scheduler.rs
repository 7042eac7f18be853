//! `gangsaw scheduler`: the scheduler alone, until SIGTERM or Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;

use gangsaw_scheduler::{Config, serve};
use rustix::process::Signal;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::up;
use crate::fail::{Failure, failure};
use crate::output::{Format, object};
use crate::part::{die_with_parent, until_told};

/// Run the scheduler alone
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7461")]
    listen: SocketAddr,
    /// The database of several schedulers, postgres://USER@HOST/DATABASE; default a file in the state folder
    #[arg(long, value_name = "URL", env = "GANGSAW_STORE", hide_env_values = true)]
    store: Option<String>,
    /// The process this one ends with
    #[arg(long, hide = true, value_name = "PID")]
    die_with_parent: Option<u32>,
}

/// Runs the verb.
pub(crate) async fn run(format: Format, args: &Args) -> Result<u8, Failure> {
    die_with_parent(args.die_with_parent, Signal::KILL)?;
    let state = up::folder(args.state.as_deref())?;
    let stop = CancellationToken::new();
    let mut config = Config::new(state.clone(), args.listen);
    config.store = args.store.clone().filter(|url| !url.is_empty());
    config.ready = Some(Box::new(move |address| {
        let server = format!("http://{address}");
        let value = json!({ "server": server, "state": state.display().to_string(), "pid": std::process::id() });
        // Nobody reading this is no reason to stop serving.
        let _ = object(format, value, || format!("the scheduler listens on {server}\n"));
    }));
    let told = tokio::spawn(until_told(stop.clone())?);
    let served = serve(config, stop).await;
    told.abort();
    served.map_err(|error| {
        let cause = std::iter::successors(std::error::Error::source(&error), |cause| cause.source()).last();
        let sentence = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        failure(error.reason(), sentence, error.hint(), error.exit_code())
    })?;
    Ok(0)
}
