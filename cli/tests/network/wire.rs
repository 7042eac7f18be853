//! Two machines on one kernel: namespaces `near` (scheduler, people, a database) and `far` (an agent, another scheduler),
//! and the cable.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::cluster::{Daemon, Place, cannot_run, eventually, is_alive};

/// The scheduler's address on the cable; the agent has the next one.
pub(crate) const NEAR: &str = "127.5.0.1";
pub(crate) const FAR: &str = "127.5.0.2";

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Near,
    Far,
}

/// The cable and both its ends.
pub(crate) struct Wire {
    number: String,
}

/// Runs a program of the system; says whether it did well.
fn does(words: &[&str]) -> bool {
    let output = Command::new(words[0]).args(&words[1..]).output();
    output.is_ok_and(|output| output.status.success())
}

impl Wire {
    /// Lays a cable, or says that it cannot be done here.
    pub(crate) fn lay() -> Option<Wire> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let wire = Wire { number };
        if wire.try_lay() {
            return Some(wire);
        }
        cannot_run("network namespaces need root, ip, nsenter and iptables");
        None
    }

    fn namespace(&self, side: Side) -> String {
        let end = match side {
            Side::Near => "near",
            Side::Far => "far",
        };
        format!("gangsaw-{}-{end}", self.number)
    }

    fn try_lay(&self) -> bool {
        let (near, far) = (self.namespace(Side::Near), self.namespace(Side::Far));
        let ends = [(&near, NEAR), (&far, FAR)];
        ends.iter().all(|(namespace, _)| does(&["ip", "netns", "add", namespace]))
            && does(&[
                "ip", "link", "add", "wire", "netns", &near, "type", "veth", "peer", "name", "wire", "netns", &far,
            ])
            && ends.iter().all(|(namespace, address)| {
                let script = format!(
                    "ip link set lo up && ip addr del 127.0.0.1/8 dev lo && ip addr add 127.0.0.1/32 dev lo && \
                     echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet && ip addr add {address}/24 dev wire && \
                     ip link set wire up && iptables -w -L"
                );
                does(&["ip", "netns", "exec", namespace, "sh", "-ec", &script])
            })
    }

    /// The same command on one side. `ip netns exec` would hide the cgroups, so it is `nsenter`.
    pub(crate) fn on(&self, side: Side, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net=/var/run/netns/{}", self.namespace(side))).arg("--");
        entered.arg(command.get_program()).args(command.get_args()).env_clear();
        entered.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            entered.current_dir(folder);
        }
        entered.stdin(std::process::Stdio::null());
        entered
    }

    /// Does something in a thread that is on one side, so that what it starts is there.
    pub(crate) fn there<T: Send>(&self, side: Side, what: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/var/run/netns/{}", self.namespace(side))).unwrap();
        let moved = || {
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(moved).join()).unwrap()
    }

    /// What happens to packets that arrive on this side.
    pub(crate) fn arriving(&self, side: Side, rule: &[&str]) {
        let namespace = self.namespace(side);
        let words = ["ip", "netns", "exec", &namespace, "iptables", "-w", "-A", "INPUT", "-i", "wire"];
        assert!(does(&[&words, rule].concat()), "{rule:?}");
    }

    /// Cuts both directions.
    pub(crate) fn cut(&self) {
        self.arriving(Side::Near, &["-j", "DROP"]);
        self.arriving(Side::Far, &["-j", "DROP"]);
    }

    /// Lets everything through again.
    pub(crate) fn heal(&self) {
        for side in [Side::Near, Side::Far] {
            assert!(does(&["ip", "netns", "exec", &self.namespace(side), "iptables", "-w", "-F", "INPUT"]));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for side in [Side::Near, Side::Far] {
            does(&["ip", "netns", "del", &self.namespace(side)]);
        }
    }
}

/// A scheduler on the near side, and the people who use it.
pub(crate) struct Net {
    pub(crate) scheduler: Daemon,
    pub(crate) agents: Vec<Daemon>,
    server: String,
    pub(crate) wire: Wire,
    // Last, so that it is dropped after its daemons.
    pub(crate) place: Place,
}

impl Net {
    /// A scheduler alone, where a network can be made.
    pub(crate) fn new() -> Option<Net> {
        let wire = Wire::lay()?;
        let place = Place::new();
        let state = place.path().join("state").display().to_string();
        let listen = format!("{NEAR}:0");
        let words = ["scheduler", "--state", &state, "--listen", &listen, "--output", "jsonl"];
        place.judge(Path::new(&state));
        let scheduler = Daemon::start(wire.on(Side::Near, &place.gangsaw(&words)));
        let server = scheduler.ready["server"].as_str().unwrap().to_owned();
        Some(Net { scheduler, agents: Vec::new(), server, wire, place })
    }

    /// Starts an agent on one side and waits until the scheduler knows it.
    pub(crate) fn agent(&mut self, side: Side, name: &str) {
        let state = self.place.path().join(name).display().to_string();
        let words = ["agent", "--state", &state, "--server", &self.server, "--node-name", name, "--stop-tasks"];
        let words: Vec<&str> = words.into_iter().chain(["--no-gpus", "--output", "jsonl"]).collect();
        self.agents.push(Daemon::start(self.wire.on(side, &self.place.gangsaw(&words))));
        self.until_connected(name, true);
    }

    /// A command of somebody on the near side.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.place.gangsaw(words);
        command.env("GANGSAW_SERVER", &self.server);
        self.wire.on(Side::Near, &command)
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
        let output = self.run(&words);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?} gave {output:?}"))
    }

    pub(crate) fn submit(&self, words: &[&str]) -> u64 {
        let words: Vec<&str> = ["submit"].iter().chain(words).copied().collect();
        let (words, rest) = words.split_at(words.iter().position(|word| *word == "--").unwrap());
        let words: Vec<&str> = [words, &["--output", "json"], rest].concat();
        let output = self.run(&words);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?}: {output:?}"));
        value["job_id"].as_u64().unwrap()
    }

    /// What the scheduler says of a job's only task.
    pub(crate) fn task(&self, job: u64) -> Value {
        self.json(&["show", &job.to_string()])["tasks"][0].clone()
    }

    pub(crate) fn until(&self, job: u64, state: &str) -> Value {
        eventually(&format!("job {job} is {state}"), || {
            let shown = self.json(&["show", &job.to_string()]);
            (shown["state"] == state).then_some(shown)
        })
    }

    /// Waits until an attempt of a job runs, and returns its pid.
    pub(crate) fn until_running(&self, job: u64, attempt: u64) -> u64 {
        eventually("a running attempt", || {
            let task = self.task(job);
            (task["state"] == "RUNNING" && task["attempt"] == attempt).then(|| task["pid"].as_u64()).flatten()
        })
    }

    pub(crate) fn until_connected(&self, name: &str, connected: bool) {
        eventually(&format!("node {name} connected: {connected}"), || {
            let nodes = self.json(&["nodes"]);
            let nodes = nodes["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["name"] == name && node["connected"] == connected).then_some(())
        });
    }

    /// A file that lets a task go on, and the shell that waits for it.
    pub(crate) fn gate(&self, name: &str) -> (std::path::PathBuf, String) {
        let path = self.place.path().join(name);
        let wait = format!("until [ -e {} ]; do sleep 0.05; done", path.display());
        (path, wait)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // One that a failed test left stopped would never hear that it is to end.
        for daemon in self.agents.iter().chain([&self.scheduler]) {
            let pid = rustix::process::Pid::from_raw(daemon.child.id().cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        }
    }
}

/// Waits for a process that somebody else ends.
pub(crate) fn until_dead(pid: u64) {
    eventually("the end of a process", || (!is_alive(pid)).then_some(()));
}
