//! The arrows between folders, compared with what `cargo metadata` says is really used.
//!
//! Arrows go down only. A crate that gains an arrow changes the design, so it is named here and in `ARCHITECTURE.md`,
//! or the check fails. `core` may use one library, so that no clock, runtime or socket can get in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::Faults;

/// Which of our crates each crate may use, in tests too.
const ARROWS: [(&str, &[&str]); 10] = [
    ("gangsaw-core", &[]),
    ("gangsaw-proto", &[]),
    ("gangsaw-kernels", &[]),
    ("gangsaw-scheduler", &["gangsaw-core", "gangsaw-proto"]),
    ("gangsaw-agent", &["gangsaw-core", "gangsaw-proto"]),
    ("gangsaw-trainer", &["gangsaw-kernels"]),
    ("gangsaw-sim", &["gangsaw-core"]),
    (
        "gangsaw",
        &[
            "gangsaw-core",
            "gangsaw-proto",
            "gangsaw-kernels",
            "gangsaw-scheduler",
            "gangsaw-agent",
            "gangsaw-trainer",
            "gangsaw-sim",
        ],
    ),
    (
        "gangsaw-benches",
        &[
            "gangsaw-core",
            "gangsaw-proto",
            "gangsaw-kernels",
            "gangsaw-scheduler",
            "gangsaw-agent",
            "gangsaw-trainer",
            "gangsaw-sim",
        ],
    ),
    ("xtask", &[]),
];

/// Libraries that a crate may use and no other; for the crates where purity is the point.
const LIBRARIES: [(&str, &[&str]); 3] = [
    ("gangsaw-core", &["thiserror"]),
    ("gangsaw-proto", &["prost", "prost-types", "tonic", "tonic-prost"]),
    ("gangsaw-kernels", &["cudarc", "thiserror"]),
];

/// Returns every arrow that is not drawn, and every crate that is not in the table.
pub(crate) fn check(root: &Path) -> anyhow::Result<Faults> {
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
    let packages = metadata.workspace_packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut faults: Faults =
        arrows.keys().filter(|name| !ours.contains(*name)).map(|name| format!("{name}: drawn, but absent")).collect();
    for package in packages {
        match arrows.get(package.name.as_str()) {
            Some(allowed) => faults.extend(undrawn(package, allowed, &ours)),
            None => faults.push(format!("{}: a crate without arrows in xtask/src/arrows.rs", package.name)),
        }
        faults.extend(foreign(package));
    }
    Ok(faults)
}

/// Returns the arrows of one crate that the table does not have.
fn undrawn(package: &Package, allowed: &[&str], ours: &BTreeSet<&str>) -> Faults {
    package
        .dependencies
        .iter()
        .filter(|dependency| ours.contains(dependency.name.as_str()) && !allowed.contains(&dependency.name.as_str()))
        .map(|dependency| format!("{} → {}: this arrow is not drawn", package.name, dependency.name))
        .collect()
}

/// Returns the libraries of one crate that its table forbids. Tests may use what they like.
fn foreign(package: &Package) -> Faults {
    let Some((_, allowed)) = LIBRARIES.iter().find(|(name, _)| *name == package.name.as_str()) else {
        return Vec::new();
    };
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal && !allowed.contains(&dependency.name.as_str()))
        .map(|dependency| format!("{} uses {}: only {allowed:?} may be used there", package.name, dependency.name))
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_workspace_has_only_the_arrows_that_are_drawn() {
        assert_eq!(check(&crate::workspace_root()).unwrap(), Faults::new());
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_a_fault() {
        let metadata =
            MetadataCommand::new().manifest_path(crate::workspace_root().join("Cargo.toml")).no_deps().exec().unwrap();
        let packages = metadata.workspace_packages();
        let scheduler = packages.iter().find(|package| package.name.as_str() == "gangsaw-scheduler").unwrap();
        let ours = BTreeSet::from(["gangsaw-core", "gangsaw-proto"]);
        assert_eq!(
            undrawn(scheduler, &["gangsaw-proto"], &ours),
            ["gangsaw-scheduler → gangsaw-core: this arrow is not drawn"]
        );
    }
}
