//! `gangsaw scheduler`: the scheduler alone, until SIGTERM or Ctrl-C; and `scheduler init`, which makes its certificates.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gangsaw_scheduler::{Config, TlsError, serve};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::up;
use crate::fail::{Failure, bad_input, failure};
use crate::output::{Format, object};
use crate::part::{die_with_parent, until_told};

#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7461")]
    listen: SocketAddr,
    /// How long a node's certificate lives; it is renewed at two thirds
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "24h")]
    node_cert_life: Duration,
    /// The database of several schedulers, postgres://USER@HOST/DATABASE; default a file in the state folder
    #[arg(long, value_name = "URL", env = "GANGSAW_STORE", hide_env_values = true)]
    store: Option<String>,
    /// The process this one ends with
    #[arg(long, hide = true, value_name = "PID")]
    die_with_parent: Option<u32>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Make an authority and a certificate, so that other machines can be let in
    Init(Init),
}

#[derive(Clone, Debug, clap::Args)]
struct Init {
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A name or address that others reach this machine by; may be repeated
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the verb.
pub(crate) async fn run(format: Format, args: &Args) -> Result<u8, Failure> {
    if let Some(Verb::Init(args)) = &args.verb {
        return init(format, args);
    }
    die_with_parent(args.die_with_parent, Signal::KILL)?;
    raise_descriptors();
    let state = up::folder(args.state.as_deref())?;
    let stop = CancellationToken::new();
    let mut config = Config::new(state.clone(), args.listen);
    config.node_certificate_life = args.node_cert_life;
    config.store = args.store.clone().filter(|url| !url.is_empty());
    config.ready = Some(Box::new(move |address| {
        let server = reached_at(address);
        let value = json!({
            "server": server,
            "listen": address.to_string(),
            "state": state.display().to_string(),
            "pid": std::process::id(),
        });
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

/// Raises the soft limit of descriptors to the hard one: each node is a connection, and the usual soft limit is 1,024.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, soft = limit.current, "the limit of descriptors stays as it is");
    }
}

/// Makes the certificates of a state folder.
fn init(format: Format, args: &Init) -> Result<u8, Failure> {
    let state = up::folder(args.state.as_deref())?;
    let made = gangsaw_scheduler::init(&state, &args.names).map_err(|error| {
        let hint = match &error {
            TlsError::Name(_) => "write `--san head.example` or `--san 10.0.0.5`",
            TlsError::Io { .. } | TlsError::Bad { .. } | TlsError::Make(_) => "",
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        bad_input("tls", format!("{error}{cause}"), hint)
    })?;
    let value = json!({
        "ca_file": made.ca_file.display().to_string(),
        "ca_hash": made.ca_hash,
        "names": made.names,
        "kept": made.kept,
    });
    object(format, value, || {
        let kept = if made.kept { " (kept)" } else { "" };
        format!(
            "authority  {}{kept}\n  sha256   {}\n  names    {}\n  serve    gangsaw scheduler --listen 0.0.0.0:7461\n",
            made.ca_file.display(),
            made.ca_hash,
            made.names.join(" "),
        )
    })?;
    Ok(0)
}

/// The URL that this machine reaches a scheduler at.
fn reached_at(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_loopback() => format!("http://{address}"),
        // Every address is also loopback.
        IpAddr::V4(ip) if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("http://[::1]:{}", address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("https://{address}"),
    }
}
