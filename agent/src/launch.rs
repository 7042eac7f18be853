//! From a grant to what the supervisor runs: command, environment, directories, user, deadline.
//!
//! Precedence in the environment: what the job asked for (the scheduler merged its `env` over what the submitter's
//! shell exported), then what this node has by default. Names that only the node knows (`GANGSAW_*`, devices,
//! rendezvous, thread counts) are the supervisor's.
//!
//! Invariants: nothing here waits, and nothing is written.
//!
//! Elsewhere: `GANGSAW_PROGRESS` is bound by `progress`; the resumed checkpoint is found by `checkpoint`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gangsaw_proto::node::v1::{self as node, Grant, TaskSpec};
use gangsaw_proto::supervisor::v1 as supervisor;

use crate::checkpoint;
use crate::users::{RunsAs, Users};

/// What every task of this node has in common.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    /// The executable with the `train` verb.
    pub(crate) exe: PathBuf,
    /// STATE/agent.
    pub(crate) folder: PathBuf,
    /// Used where the job says nothing.
    pub(crate) default_env: HashMap<String, String>,
    pub(crate) users: Users,
    /// The node's name, for people.
    pub(crate) node: String,
}

/// Returns the defaults: who and where a task is, as a login would say it.
pub(crate) fn default_env() -> HashMap<String, String> {
    let mut env: HashMap<String, String> = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SHELL"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    env.entry("PATH".to_owned())
        .or_insert_with(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    env
}

impl Launcher {
    /// Makes the supervisor's Run. `granted_us` is BOOTTIME. A grant without a command becomes a Run without one,
    /// which the supervisor refuses as the job's fault.
    pub(crate) fn run(&self, grant: &Grant, progress: Option<&Path>, granted_us: u64) -> supervisor::Run {
        let nothing = TaskSpec::default();
        let task = grant.task.as_ref().unwrap_or(&nothing);
        let (user, refused) = match self.users.find(&task.user) {
            RunsAs::Agent => (None, String::new()),
            RunsAs::Another(user) => (Some(user), String::new()),
            RunsAs::Unknown => (None, format!("user {} is not known on node {}", task.user, self.node)),
        };
        let mut env = self.default_env.clone();
        if let Some(user) = &user {
            env.insert("HOME".to_owned(), user.home.clone());
            env.insert("SHELL".to_owned(), user.shell.clone());
            env.insert("USER".to_owned(), user.name.clone());
            env.insert("LOGNAME".to_owned(), user.name.clone());
        }
        env.extend(task.env.clone());
        if let Some(path) = progress.and_then(Path::to_str) {
            env.insert("GANGSAW_PROGRESS".to_owned(), path.to_owned());
        }
        let deadline_ms = match task.stop_after_ms {
            0 => 0,
            stop_after => (granted_us / 1000).saturating_add(stop_after).saturating_add(task.grace_ms),
        };
        supervisor::Run {
            lease_id: grant.lease_id,
            job_id: grant.job_id,
            first_index: grant.first_index,
            last_index: grant.last_index,
            attempt: grant.attempt,
            slots: grant.slots,
            ranks: grant.ranks.iter().map(rank).collect(),
            work: self.work(task).filter(|_| refused.is_empty()),
            env,
            workdir: task.workdir.clone(),
            output_dir: task.output_dir.clone(),
            checkpoint_dir: String::new(),
            resume_from: self.resume_from(grant, task),
            limits: Some(supervisor::Limits {
                milli_cpus: task.milli_cpus,
                memory_bytes: task.memory_bytes,
                pids_max: 0,
            }),
            time_limit_ms: task.time_limit_ms,
            grace_ms: task.grace_ms,
            deadline_ms,
            user: user.map(|user| supervisor::User { uid: user.uid, gid: user.gid, groups: user.groups }),
            array: task.array.map(|array| supervisor::ArrayBounds {
                count: array.count,
                min: array.min,
                max: array.max,
            }),
            gang: grant.gang.then(|| gang(grant, task)),
            prepare: grant.gang,
            granted_us,
            refused,
        }
    }

    /// The command: the job's own, or our `train` verb for a recipe.
    fn work(&self, task: &TaskSpec) -> Option<supervisor::run::Work> {
        match task.work.as_ref()? {
            node::task_spec::Work::Shell(line) => Some(supervisor::run::Work::Shell(line.clone())),
            node::task_spec::Work::Argv(argv) => {
                Some(supervisor::run::Work::Argv(supervisor::Argv { args: argv.args.clone() }))
            }
            node::task_spec::Work::Recipe(recipe) => {
                let exe = self.exe.to_str()?;
                let settings = if recipe.settings_json.is_empty() { "{}" } else { &recipe.settings_json };
                let device = if recipe.device.is_empty() { "cpu" } else { &recipe.device };
                let args = [exe, "train", "--recipe", &recipe.name, "--settings", settings, "--device", device];
                let args = args.into_iter().map(str::to_owned).collect();
                Some(supervisor::run::Work::Argv(supervisor::Argv { args }))
            }
        }
    }

    /// The scheduler's word, or what an earlier attempt left on this node. A chunk of several elements has none: each
    /// would need its own.
    fn resume_from(&self, grant: &Grant, task: &TaskSpec) -> String {
        if !task.resume_from.is_empty() {
            return task.resume_from.clone();
        }
        if grant.attempt < 2 || grant.first_index != grant.last_index {
            return String::new();
        }
        let found = checkpoint::resume_from(&self.folder, grant.job_id, grant.first_index, grant.attempt);
        found.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_default()
    }
}

fn rank(rank: &node::RankGrant) -> supervisor::Rank {
    supervisor::Rank { rank: rank.rank, gpu_uuids: rank.gpu_uuids.clone() }
}

fn gang(grant: &Grant, task: &TaskSpec) -> supervisor::Gang {
    let place = grant.place.unwrap_or_default();
    supervisor::Gang {
        world_size: place.world_size,
        per_process: task.per_process_rendezvous,
        master_addr: String::new(),
        master_port: 0,
    }
}

#[cfg(test)]
mod tests {
    //! Grants and the runs they become.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn launcher() -> Launcher {
        Launcher {
            exe: PathBuf::from("/opt/gangsaw"),
            folder: std::env::temp_dir().join(format!("gangsaw-launch-{}", std::process::id())),
            default_env: [("PATH", "/bin"), ("LANG", "C")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            users: Users::default(),
            node: "n1".to_owned(),
        }
    }

    fn grant(task: TaskSpec) -> Grant {
        Grant { lease_id: 5, job_id: 7, attempt: 1, slots: 1, task: Some(task), ..Grant::default() }
    }

    #[test]
    fn recipe_becomes_our_own_train_verb_with_its_device() {
        let recipe = node::Recipe { name: "cnn".to_owned(), settings_json: String::new(), device: "cuda".to_owned() };
        let task = TaskSpec { work: Some(node::task_spec::Work::Recipe(recipe)), ..TaskSpec::default() };
        let run = launcher().run(&grant(task), None, 0);
        let Some(supervisor::run::Work::Argv(argv)) = run.work else { panic!("{:?}", run.work) };
        assert_eq!(argv.args.join(" "), "/opt/gangsaw train --recipe cnn --settings {} --device cuda");
    }

    #[test]
    fn job_wins_over_defaults_and_progress_is_set() {
        let env = [("PATH".to_owned(), "/mine".to_owned())].into();
        let task = TaskSpec { work: Some(node::task_spec::Work::Shell("x".to_owned())), env, ..TaskSpec::default() };
        let run = launcher().run(&grant(task), Some(Path::new("/p/5")), 0);
        let mut env: Vec<_> = run.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.sort();
        assert_eq!(env, ["GANGSAW_PROGRESS=/p/5", "LANG=C", "PATH=/mine"]);
        assert_eq!((run.deadline_ms, run.prepare), (0, false));
    }

    #[test]
    fn deadline_counts_from_now_only_for_a_job_that_stops_when_alone() {
        let task = TaskSpec {
            work: Some(node::task_spec::Work::Shell("x".to_owned())),
            stop_after_ms: 1000,
            grace_ms: 50,
            ..TaskSpec::default()
        };
        assert_eq!(launcher().run(&grant(task), None, 10_000_000).deadline_ms, 11_050);
    }

    #[test]
    fn second_attempt_resumes_from_what_the_first_left_here() {
        let launcher = launcher();
        let work = Some(node::task_spec::Work::Shell("x".to_owned()));
        let folder = checkpoint::checkpoints_of(&launcher.folder, 7, 0, 0, 1);
        checkpoint::tests::make(&folder, "step-9", Some(1));
        let second = Grant { attempt: 2, ..grant(TaskSpec { work: work.clone(), ..TaskSpec::default() }) };
        let run = launcher.run(&second, None, 0);
        assert_eq!(run.resume_from, folder.join("step-9").to_str().unwrap());
        let told = TaskSpec { work, resume_from: "/told".to_owned(), ..TaskSpec::default() };
        assert_eq!(launcher.run(&grant(told), None, 0).resume_from, "/told");
        std::fs::remove_dir_all(&launcher.folder).unwrap();
    }

    #[test]
    fn grant_without_a_command_is_left_to_the_supervisor_to_refuse() {
        assert_eq!(launcher().run(&grant(TaskSpec::default()), None, 0).work, None);
    }
}
