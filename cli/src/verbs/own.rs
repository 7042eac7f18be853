//! `gangsaw config`, `completions`: about this installation, without a scheduler.

use serde_json::json;

use crate::fail::Failure;
use crate::output::{object, print};
use crate::session::Session;

/// Which shell
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints what is in force, and where it comes from.
pub(crate) fn print_config(session: &Session) -> Result<u8, Failure> {
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
