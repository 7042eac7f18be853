//! Whom a task runs as: the submitting user, where the agent may change to it.
//!
//! Only an agent that is root can run a task as somebody else. It looks the name up in /etc/passwd and /etc/group. A
//! name that is not there (another machine's user, one of a directory service) is refused: root is nobody's stand-in.
//!
//! Invariants: an agent that is root runs a task as root only for root, by whatever name this machine calls it. An
//! empty name, which no scheduler sends, means the agent's own user, and so does every name where the agent is not root.

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

/// Whom a task runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunsAs {
    /// The agent's own user.
    Agent,
    Another(User),
    /// Nobody of this machine is called so.
    Unknown,
}

/// The users of this machine, if the agent may become them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    /// The folder with `passwd` and `group`. Absent: tasks run as the agent.
    folder: Option<PathBuf>,
    /// What the agent's own user is called where `passwd` does not say.
    own: String,
}

impl Users {
    /// The users that this process may become.
    pub(crate) fn of_this_process() -> Users {
        let uid = rustix::process::getuid();
        let own = std::env::var("USER").unwrap_or_else(|_| format!("uid-{}", uid.as_raw()));
        Users { folder: uid.is_root().then(|| PathBuf::from("/etc")), own }
    }

    /// Says for people whom tasks run as.
    pub(crate) fn note(&self) -> String {
        match &self.folder {
            Some(_) => {
                "user: tasks run as the submitting user, and not at all where this machine has none of that name"
                    .to_owned()
            }
            None => format!("user: tasks run as uid {}", rustix::process::getuid().as_raw()),
        }
    }

    /// Finds the user a task runs as.
    pub(crate) fn find(&self, name: &str) -> RunsAs {
        let Some(folder) = self.folder.as_deref().filter(|_| !name.is_empty()) else { return RunsAs::Agent };
        let text = std::fs::read_to_string(folder.join("passwd")).unwrap_or_default();
        match passwd(&text, name) {
            Some(user) if user.uid == 0 => RunsAs::Agent,
            Some(user) => RunsAs::Another(User { groups: groups(folder, name, user.gid), ..user }),
            // A machine without a name for root calls it as a login or a scheduler here would.
            None if name == self.own && !names_root(&text) => RunsAs::Agent,
            None => RunsAs::Unknown,
        }
    }
}

/// Says whether a `passwd` has a name for root.
fn names_root(passwd: &str) -> bool {
    passwd.lines().any(|line| line.split(':').nth(2) == Some("0"))
}

fn passwd(text: &str, name: &str) -> Option<User> {
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
    fn root_becomes_known_users_and_stands_in_for_nobody() {
        let folder = std::env::temp_dir().join(format!("gangsaw-users-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("passwd"), "root:x:0:0:r:/root:/bin/sh\nann:x:1001:100:A,B:/home/ann:/bin/bash\n")
            .unwrap();
        std::fs::write(folder.join("group"), "users:x:100:\nvideo:x:44:bob,ann\naudio:x:29:bob\n").unwrap();
        let users = Users { folder: Some(folder.clone()), own: "boss".to_owned() };
        let ann = User {
            name: "ann".to_owned(),
            uid: 1001,
            gid: 100,
            groups: vec![100, 44],
            home: "/home/ann".to_owned(),
            shell: "/bin/bash".to_owned(),
        };
        assert_eq!(users.find("ann"), RunsAs::Another(ann));
        assert_eq!(users.find("root"), RunsAs::Agent);
        assert_eq!(users.find("an"), RunsAs::Unknown);
        assert_eq!(users.find("boss"), RunsAs::Unknown, "root has a name here, and it is another");
        assert_eq!(users.find(""), RunsAs::Agent);
        assert_eq!(Users::default().find("ann"), RunsAs::Agent);
        std::fs::write(folder.join("passwd"), "").unwrap();
        assert_eq!((users.find("boss"), users.find("root")), (RunsAs::Agent, RunsAs::Unknown));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
