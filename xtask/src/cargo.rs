//! Formatting and lints, by cargo's own tools.

use std::path::Path;
use std::process::Command;

use crate::Faults;

/// Returns a fault when `cargo fmt` would change a file.
pub(crate) fn fmt(root: &Path) -> anyhow::Result<Faults> {
    run(root, &["fmt", "--all", "--check"])
}

/// Returns a fault when clippy warns anywhere, tests and benches included.
pub(crate) fn clippy(root: &Path) -> anyhow::Result<Faults> {
    run(root, &["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"])
}

/// Runs cargo, whose own output goes to the terminal as it comes.
fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<Faults> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).current_dir(root).status()?;
    Ok(if status.success() { Vec::new() } else { vec![format!("`cargo {}` ended with {status}", arguments.join(" "))] })
}
