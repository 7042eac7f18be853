//! Finds the cgroup hierarchies of this node and our own place in each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Base, ROLES, Role, Version};

/// One mounted hierarchy and where this process is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// v1: of the mount. v2: what `cgroup.controllers` of our own folder offers.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
    /// Our own folder, below `mount`.
    pub(super) own: PathBuf,
}

/// Folders below which ours can be made, each role at most once; v1 controllers win where they are mounted.
pub(super) fn bases(root: Option<&Path>, notes: &mut Vec<String>) -> io::Result<Vec<Base>> {
    let found = parse(&fs::read_to_string("/proc/self/mountinfo")?, &fs::read_to_string("/proc/self/cgroup")?);
    let hybrid = found.iter().any(|hierarchy| hierarchy.version == Version::V1);
    let mut bases = Vec::new();
    for hierarchy in &found {
        let folder = root.map_or_else(|| hierarchy.own.clone(), |root| below(&hierarchy.mount, root));
        let roles: Vec<Role> = match hierarchy.version {
            Version::V1 => {
                ROLES.into_iter().filter(|role| hierarchy.controllers.iter().any(|c| c == name(*role))).collect()
            }
            Version::V2 if hybrid => vec![Role::Tree],
            Version::V2 => match usable_v2(&folder, root.is_some(), notes) {
                Some(roles) => roles,
                None => continue,
            },
        };
        if !roles.is_empty() {
            if root.is_some() {
                fs::create_dir_all(&folder)?;
            }
            bases.push(Base { folder, version: hierarchy.version, roles });
        }
    }
    Ok(bases)
}

/// `--cgroup-root` may be given as a path in the hierarchy or as one in the file system.
fn below(mount: &Path, root: &Path) -> PathBuf {
    if root.starts_with(mount) {
        return root.to_path_buf();
    }
    mount.join(root.strip_prefix("/").unwrap_or(root))
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Cpu => "cpu",
        Role::Memory => "memory",
        Role::Pids => "pids",
        // Never the name of a controller.
        Role::Tree => "",
    }
}

/// On a pure v2 system the folder must be ours to arrange: named by the user, or delegated to us.
fn usable_v2(folder: &Path, named: bool, notes: &mut Vec<String>) -> Option<Vec<Role>> {
    if named {
        fs::create_dir_all(folder).ok()?;
    } else if !is_delegated(folder) {
        notes.push(format!(
            "cgroups: {} is not delegated to us; run under `systemd-run --scope -p Delegate=yes`, or name a folder with --cgroup-root",
            folder.display()
        ));
        return None;
    }
    let offered = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let wanted = [Role::Cpu, Role::Memory, Role::Pids];
    let mut roles: Vec<Role> =
        wanted.into_iter().filter(|role| offered.split_whitespace().any(|c| c == name(*role))).collect();
    // A folder with processes of its own cannot pass controllers on: they move one level down first.
    if !roles.is_empty() && !named {
        move_down(folder);
    }
    roles.retain(|role| fs::write(folder.join("cgroup.subtree_control"), format!("+{}", name(*role))).is_ok());
    roles.push(Role::Tree);
    Some(roles)
}

/// systemd marks what it delegates with an extended attribute.
fn is_delegated(folder: &Path) -> bool {
    let mut value = [0_u8; 8];
    ["user.delegate", "trusted.delegate"]
        .iter()
        .any(|name| matches!(rustix::fs::getxattr(folder, *name, &mut value[..]), Ok(length) if value.get(..length) == Some(b"1")))
}

/// Moves the processes of a delegated folder into `gangsaw-main`: agent and supervisor, and nothing that is not ours.
fn move_down(folder: &Path) {
    let leaf = folder.join("gangsaw-main");
    let _ = fs::create_dir(&leaf);
    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines() {
        let _ = fs::write(leaf.join("cgroup.procs"), pid);
    }
}

/// Passes the controllers on from our folder to its slots.
pub(super) fn enable_below(base: &Base) {
    if base.version == Version::V2 {
        for role in base.roles.iter().filter(|role| **role != Role::Tree) {
            let _ = fs::write(base.folder.join("cgroup.subtree_control"), format!("+{}", name(*role)));
        }
    }
}

/// Puts `/proc/self/mountinfo` and `/proc/self/cgroup` together.
pub(super) fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(mount_root), Some(mount), Some(kind)) = (left.get(3), left.get(4), right.first()) else { continue };
        let options: Vec<&str> = right.get(2).map_or_else(Vec::new, |options| options.split(',').collect());
        let (version, own) = match *kind {
            "cgroup2" => (Version::V2, own_path(cgroup, None)),
            "cgroup" => (Version::V1, own_path(cgroup, Some(&options))),
            _ => continue,
        };
        let Some(own) = own else { continue };
        let inside = Path::new(own).strip_prefix(mount_root).unwrap_or_else(|_| Path::new(""));
        let hierarchy = Hierarchy {
            version,
            controllers: options.iter().map(ToString::to_string).collect(),
            mount: PathBuf::from(mount),
            own: Path::new(mount).join(inside),
        };
        let known = |one: &Hierarchy| {
            one.version == version && (version == Version::V2 || one.controllers == hierarchy.controllers)
        };
        if !found.iter().any(known) {
            found.push(hierarchy);
        }
    }
    found
}

/// Our path in the hierarchy whose controllers are among `options`, or in the v2 one.
fn own_path<'a>(cgroup: &'a str, options: Option<&[&str]>) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match options {
            None => number == "0" && controllers.is_empty(),
            Some(options) => !controllers.is_empty() && controllers.split(',').all(|c| options.contains(&c)),
        };
        matches.then_some(path)
    })
}
