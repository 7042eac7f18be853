//! `gangsaw up`: scheduler and agent on this machine, kept running until Ctrl-C.
//!
//! Both are child processes. When one ends, also with a latched store (exit 74), it is started again; the tasks run on
//! meanwhile. SIGTERM or Ctrl-C ends the tasks and their supervisor first, then the agent, then the scheduler, so that
//! every end is on record. When `up` itself is killed, its children die with it and the tasks run on, as after a crash:
//! the next `up` on the same folder finds them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::client::state_home;
use crate::fail::{Failure, bad_input};
use crate::output::{Format, object};
use crate::part::{Part, Running, die_with_parent, keep, start};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7461")]
    listen: SocketAddr,
    /// This node's name; default the host's
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    node_name: Option<String>,
    /// Where the agent makes control groups
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The process this one stops with
    #[arg(long, hide = true, value_name = "PID")]
    die_with_parent: Option<u32>,
}

/// The agent may take so long to end its tasks; the promise is ten seconds for everything.
const AGENT_GRACE: Duration = Duration::from_secs(8);
/// The scheduler closes its store in less.
const SCHEDULER_GRACE: Duration = Duration::from_millis(1500);

/// Runs the verb.
pub(crate) async fn run(format: Format, args: &Args) -> Result<u8, Failure> {
    die_with_parent(args.die_with_parent, Signal::TERM)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = folder(args.state.as_deref())?;
    let parts = async {
        let mut scheduler = start(scheduler(&state, args.listen)).await?;
        let server = text(&scheduler.ready, "server");
        // A restarted scheduler must be found where the first one was.
        scheduler.part = self::scheduler(&state, text(&scheduler.ready, "listen").parse().unwrap_or(args.listen));
        let agent = start(agent(&state, &server, args)).await?;
        Ok::<_, Failure>((scheduler, agent, server))
    };
    tokio::pin!(parts);
    let ((scheduler, agent, server), interrupted) = tokio::select! {
        parts = &mut parts => (parts?, false),
        // Parts that are just coming up are stopped in their order, as any others.
        _ = terminate.recv() => (parts.await?, true),
        _ = interrupt.recv() => (parts.await?, true),
    };
    let value = json!({
        "server": server,
        "state": state.display().to_string(),
        "pid": std::process::id(),
        "scheduler_pid": scheduler.child.id(),
        "agent_pid": agent.child.id(),
    });
    object(format, value, || {
        format!(
            "gangsaw is up at {server}\n  state   {}\n  submit  gangsaw submit --server {server} -- python train.py\n  stop    Ctrl-C\n",
            state.display()
        )
    })?;
    let (stop_agent, stop_scheduler) = (CancellationToken::new(), CancellationToken::new());
    let told = |_: &Running| {};
    let agent = tokio::spawn(keep(agent, stop_agent.clone(), told));
    let scheduler = tokio::spawn(keep(scheduler, stop_scheduler.clone(), told));
    if !interrupted {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    stop_agent.cancel();
    let agent = agent.await.map_err(std::io::Error::other)?;
    stop_scheduler.cancel();
    let scheduler = scheduler.await.map_err(std::io::Error::other)?;
    agent.and(scheduler)?;
    Ok(0)
}

/// The scheduler as a part.
fn scheduler(state: &Path, listen: SocketAddr) -> Part {
    let args = ["--state".into(), state.into(), "--listen".into(), OsString::from(listen.to_string())];
    Part { verb: "scheduler", args: args.into(), env: Vec::new(), grace: SCHEDULER_GRACE }
}

/// The agent as a part; it ends its tasks when it is told to stop.
fn agent(state: &Path, server: &str, up: &Args) -> Part {
    let mut args: Vec<OsString> =
        vec!["--state".into(), state.into(), "--server".into(), server.into(), "--stop-tasks".into()];
    if let Some(name) = &up.node_name {
        args.extend(["--node-name".into(), name.into()]);
    }
    if let Some(root) = &up.cgroup_root {
        args.extend(["--cgroup-root".into(), root.into()]);
    }
    Part { verb: "agent", args, env: Vec::new(), grace: AGENT_GRACE }
}

/// The state folder: what was asked for, or the one below the user's state.
pub(crate) fn folder(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder = match asked {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            state_home().ok_or_else(|| bad_input("no-home", "HOME is not set", "say where state goes with --state"))?
        }
    };
    std::fs::create_dir_all(&folder).map_err(|error| {
        bad_input("bad-state", format!("{} cannot be made: {error}", folder.display()), "choose another with --state")
    })?;
    Ok(folder)
}

/// A text field of what a part said.
pub(crate) fn text(said: &Value, field: &str) -> String {
    said.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
