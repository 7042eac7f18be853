//! Whom a task runs as: the submitting user, where the agent may change to it.
//!
//! Only an agent that is root can run a task as somebody else. It looks the name up in /etc/passwd and /etc/group; a
//! name that is not there (another machine's user, a directory service) runs as the agent itself, and the node's notes
//! say so.
//!
//! Invariants: the agent's own user, an empty name and an unknown one all mean "as the agent".

use std::path::{Path, PathBuf};

/// Most groups of a user that are passed on; Linux takes 65,536.
const GROUPS_MAX: usize = 256;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The users of this machine, if the agent may become them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    /// The folder with `passwd` and `group`. Absent: tasks run as the agent.
    folder: Option<PathBuf>,
}

impl Users {
    /// The users that this process may become.
    pub(crate) fn of_this_process() -> Users {
        Users { folder: rustix::process::getuid().is_root().then(|| PathBuf::from("/etc")) }
    }

    /// Says for people whom tasks run as.
    pub(crate) fn note(&self) -> String {
        match &self.folder {
            Some(_) => "user: tasks run as the submitting user where this machine has it, else as root".to_owned(),
            None => format!("user: tasks run as uid {}", rustix::process::getuid().as_raw()),
        }
    }

    /// Finds the user a task runs as. Nothing: as the agent.
    pub(crate) fn find(&self, name: &str) -> Option<User> {
        let folder = self.folder.as_deref().filter(|_| !name.is_empty())?;
        let mut user = passwd(folder, name).filter(|user| user.uid != 0)?;
        user.groups = groups(folder, name, user.gid);
        Some(user)
    }
}

fn passwd(folder: &Path, name: &str) -> Option<User> {
    let text = std::fs::read_to_string(folder.join("passwd")).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [user, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
        let found = || {
            Some(User {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                groups: Vec::new(),
                home: (*home).to_owned(),
                shell: (*shell).to_owned(),
            })
        };
        if *user == name { found() } else { None }
    })
}

fn groups(folder: &Path, name: &str, gid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("group")).unwrap_or_default();
    let mut groups = vec![gid];
    for line in text.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(id), Some(members)) = (fields.next(), fields.next()) else { continue };
        let Ok(id) = id.parse::<u32>() else { continue };
        if members.split(',').any(|member| member == name) && !groups.contains(&id) && groups.len() < GROUPS_MAX {
            groups.push(id);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    //! Names that are there, and names that are not.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_another_known_user_is_found_and_only_by_root() {
        let folder = std::env::temp_dir().join(format!("gangsaw-users-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("passwd"), "root:x:0:0:r:/root:/bin/sh\nann:x:1001:100:A,B:/home/ann:/bin/bash\n")
            .unwrap();
        std::fs::write(folder.join("group"), "users:x:100:\nvideo:x:44:bob,ann\naudio:x:29:bob\n").unwrap();
        let users = Users { folder: Some(folder.clone()) };
        assert_eq!(
            users.find("ann"),
            Some(User {
                name: "ann".to_owned(),
                uid: 1001,
                gid: 100,
                groups: vec![100, 44],
                home: "/home/ann".to_owned(),
                shell: "/bin/bash".to_owned(),
            })
        );
        assert_eq!(users.find("root"), None);
        assert_eq!(users.find("an"), None);
        assert_eq!(users.find(""), None);
        assert_eq!(Users::default().find("ann"), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
