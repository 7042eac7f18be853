//! `gangsaw config`, `completions`: about this installation, without a scheduler.

use std::os::unix::fs::DirBuilderExt as _;

use serde_json::json;

use crate::client::{credentials, host_and_port, normal, untrusted};
use crate::fail::{Failure, bad_input};
use crate::output::{object, print};
use crate::session::Session;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: Option<ConfigVerb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ConfigVerb {
    /// Believe a scheduler on another machine from now on
    Trust(Trust),
}

#[derive(Clone, Debug, clap::Args)]
struct Trust {
    /// Where it is: https://HOST:PORT
    #[arg(value_name = "URL")]
    at: String,
    /// SHA-256 of its authority, as `gangsaw scheduler init` printed it there
    hash: String,
}

/// Runs `gangsaw config`.
pub(crate) async fn config(session: &Session, args: &ConfigArgs) -> Result<u8, Failure> {
    match &args.verb {
        None => print_config(session),
        Some(ConfigVerb::Trust(args)) => trust(session, args).await,
    }
}

/// Fetches the authority that has a hash, and pins it for the address.
async fn trust(session: &Session, args: &Trust) -> Result<u8, Failure> {
    let address = normal(&args.at)?;
    if !address.starts_with("https://") {
        return Err(bad_input(
            "bad-server",
            format!("`{}` is no https:// address", args.at),
            "write https://HOST:PORT",
        ));
    }
    if args.hash.len() != 64 || !args.hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad_input("bad-hash", "a SHA-256 has 64 hexadecimal digits", "copy the line `sha256` of `init`"));
    }
    let (host, port) = host_and_port(&address)?;
    let ca = gangsaw_agent::trust::fetch(&host, port, &args.hash).await.map_err(|error| untrusted(&address, &error))?;
    let folder = credentials().ok_or_else(|| bad_input("no-home", "HOME is not set", "set HOME or XDG_STATE_HOME"))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let file = folder.join(format!("{host}:{port}.pem"));
    std::fs::write(&file, ca.pem())?;
    let value = json!({ "server": address, "ca_hash": ca.hash(), "file": file.display().to_string() });
    object(session.format, value, || format!("{address} is trusted ({})\n", file.display()))?;
    Ok(0)
}

/// Prints what is in force, and where it comes from.
fn print_config(session: &Session) -> Result<u8, Failure> {
    let config = &session.config;
    let from = match (&session.server, &config.server) {
        (Some(_), _) => "flag or GANGSAW_SERVER",
        (None, Some(_)) => "config",
        (None, None) => "default",
    };
    let file = crate::config::path().map(|path| path.display().to_string());
    let text = |key: &str| {
        let tree = config.submit.as_ref().and_then(|(_, tree)| tree.get(key))?;
        match &tree.value {
            crate::spec::tree::Value::Text(text) => Some(text.clone()),
            crate::spec::tree::Value::Number(number) => Some(number.raw.clone()),
            crate::spec::tree::Value::Null
            | crate::spec::tree::Value::Bool(_)
            | crate::spec::tree::Value::List(_)
            | crate::spec::tree::Value::Map(_) => None,
        }
    };
    let value = json!({
        "file": file,
        "file_found": config.path.is_some(),
        "server": session.address(),
        "server_from": from,
        "submit": { "queue": text("queue"), "priority": text("priority"), "time_limit": text("time_limit") },
    });
    object(session.format, value, || {
        let found = if config.path.is_some() { "" } else { " (not there)" };
        let mut out =
            format!("file    {}{found}\nserver  {} (from {from})\n", file.unwrap_or_default(), session.address());
        for key in ["queue", "priority", "time_limit"] {
            if let Some(text) = text(key) {
                out.push_str(&format!("submit  {key} = {text}\n"));
            }
        }
        out
    })?;
    Ok(0)
}

/// Prints a shell's completion script.
pub(crate) fn completions(args: &Completions, mut command: clap::Command) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "gangsaw", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
