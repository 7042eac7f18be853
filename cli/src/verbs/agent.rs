//! `gangsaw agent`: this node's agent, until SIGTERM or Ctrl-C.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gangsaw_agent::JoinError;
use gangsaw_agent::trust::TrustError;
use rustix::process::Signal;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::up;
use crate::fail::{Failure, SOFTWARE, STORE, UNREACHABLE, bad_input, failure, refused};
use crate::output::object;
use crate::part::{die_with_parent, until_told};
use crate::session::{Session, token};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A join token, the first time on a machine other than the scheduler's
    #[arg(long, value_name = "TOKEN", env = "GANGSAW_JOIN", hide_env_values = true)]
    join: Option<String>,
    /// This node's name; default the host's
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    node_name: Option<String>,
    /// A label of this node; may be repeated
    #[arg(long = "label", value_name = "K=V")]
    labels: Vec<String>,
    /// How other nodes reach this one, for gangs
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// Where control groups are made; default the agent's own
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Offer no GPU
    #[arg(long)]
    no_gpus: bool,
    /// End the tasks, too, when the agent is told to stop; otherwise they run on
    #[arg(long)]
    stop_tasks: bool,
    /// The version this agent says it is, to try an upgrade
    #[arg(long, hide = true, value_name = "VERSION")]
    as_version: Option<String>,
    /// The process this one ends with
    #[arg(long, hide = true, value_name = "PID")]
    die_with_parent: Option<u32>,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    die_with_parent(args.die_with_parent, Signal::KILL)?;
    let state = up::folder(args.state.as_deref())?;
    let server = session.address().to_owned();
    let config = gangsaw_agent::Config {
        state_dir: state.clone(),
        server: server.clone(),
        join: args.join.clone().filter(|join| !join.trim().is_empty()),
        token: token(),
        name: args.node_name.clone(),
        labels: labels(&args.labels)?,
        address: args.address.clone(),
        cgroup_root: args.cgroup_root.clone(),
        gpus: !args.no_gpus,
        stop_tasks: args.stop_tasks,
        version: args.as_version.clone(),
        exe: None,
    };
    let stop = CancellationToken::new();
    let told = tokio::spawn(until_told(stop.clone())?);
    let value = json!({ "server": server, "state": state.display().to_string(), "pid": std::process::id() });
    object(session.format, value, || format!("the agent dials {server}\n"))?;
    let ended = gangsaw_agent::run(config, stop).await;
    told.abort();
    ended.map_err(|error| {
        let cause = std::iter::successors(std::error::Error::source(&error), |cause| cause.source()).last();
        let sentence = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        failed(&error, sentence)
    })?;
    Ok(0)
}

/// The reason and exit code of an agent that did not start.
fn failed(error: &gangsaw_agent::AgentError, sentence: String) -> Failure {
    use gangsaw_agent::{AgentError, FolderError};
    match error {
        AgentError::Folder(FolderError::Held(_)) => {
            bad_input("agent-running", sentence, "stop the other agent, or give this one another --state")
        }
        AgentError::Folder(FolderError::Full(_)) => {
            failure("disk-full", sentence, "free some space there, or choose another with --state", STORE)
        }
        AgentError::Folder(FolderError::Io { .. }) => bad_input("bad-state", sentence, "choose another with --state"),
        AgentError::Server(_) => bad_input("bad-server", sentence, "write it as http://127.0.0.1:7461"),
        AgentError::Join(error) => not_let_in(error),
        AgentError::Name(_) => bad_input("bad-name", sentence, "give a name with --node-name"),
        AgentError::System { .. } => failure("system", sentence, "", SOFTWARE),
    }
}

/// The reason, the hint and the exit code of a machine that was not let in.
fn not_let_in(error: &JoinError) -> Failure {
    match error {
        JoinError::Malformed => {
            bad_input("bad-join-token", error.to_string(), "copy all of what `gangsaw token join create` printed")
        }
        JoinError::Plaintext => bad_input("join-needs-tls", error.to_string(), "write `--server https://HOST:PORT`"),
        JoinError::NotTrusted(TrustError::Handshake(why)) => {
            failure("not-trusted", why.clone(), "ask for a join token of the scheduler at this address", UNREACHABLE)
        }
        JoinError::NotTrusted(error) => failure("unreachable", error.to_string(), "", UNREACHABLE),
        JoinError::Refused(status) => refused(status, "the scheduler"),
        JoinError::Unusable(sentence) => {
            bad_input("bad-identity", sentence.clone(), "remove the file and join again with a new token")
        }
        JoinError::Io(..) => bad_input("bad-state", cause(error), "choose another with --state"),
    }
}

/// An error with its cause.
fn cause(error: &JoinError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// `K=V` labels.
fn labels(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |pair: &String| {
        let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    pairs
        .iter()
        .map(|pair| {
            split(pair).ok_or_else(|| {
                bad_input("bad-value", format!("`--label {pair}` labels nothing"), "write `--label KEY=VALUE`")
            })
        })
        .collect()
}
