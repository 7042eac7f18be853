//! The schedulers of one database, each with a wire of its own to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use gangsaw_proto::jobs::v1 as jobs;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::Code;

use super::{Kind, PATIENCE};
use crate::cluster::Door;
use crate::postgres::Postgres;
use crate::relay::Relay;

/// One scheduler.
struct Member {
    folder: TempDir,
    child: Child,
    relay: Relay,
}

impl Drop for Member {
    fn drop(&mut self) {
        // A bench that failed must not leave a scheduler behind; what these return is of no use here.
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// All of them.
pub(super) struct Members {
    gangsaw: PathBuf,
    members: Vec<Member>,
}

impl Members {
    /// Starts `count` schedulers.
    pub(super) async fn start(gangsaw: &Path, postgres: &Postgres, count: usize) -> anyhow::Result<Members> {
        let mut members = Vec::new();
        for _ in 0..count {
            let folder = tempfile::Builder::new().prefix("gangsaw-bench-").tempdir()?;
            let relay = Relay::to(postgres.port).await?;
            let child = spawn(gangsaw, folder.path(), "127.0.0.1:0", relay.port)?;
            let mut member = Member { folder, child, relay };
            member.until_it_serves().await?;
            members.push(member);
        }
        Ok(Members { gangsaw: gangsaw.to_owned(), members })
    }

    pub(super) fn name(&self, number: usize) -> String {
        format!("scheduler {}", number + 1)
    }

    fn member(&self, number: usize) -> anyhow::Result<&Member> {
        self.members.get(number).context("no such scheduler")
    }

    /// Returns where clients of each knock.
    pub(super) fn doors(&self) -> anyhow::Result<Vec<Door>> {
        self.members.iter().map(Member::door).collect()
    }

    /// Returns where clients of one knock.
    pub(super) fn door(&self, number: usize) -> anyhow::Result<Door> {
        self.member(number)?.door()
    }

    /// Does to the leader what the round is about.
    pub(super) fn break_it(&self, number: usize, kind: Kind) -> anyhow::Result<()> {
        let member = self.member(number)?;
        let signal = match kind {
            Kind::Killed => Signal::KILL,
            Kind::Stopped => Signal::STOP,
            Kind::Planned => Signal::TERM,
            Kind::CutOff => {
                member.relay.set_whole(false);
                return Ok(());
            }
        };
        Ok(kill_process(Pid::from_child(&member.child), signal)?)
    }

    /// Waits until a stopped scheduler stands still: the signal takes hold when one of its threads runs next, and until
    /// then the others go on, and may well acknowledge.
    pub(super) async fn until_it_stands_still(&self, number: usize) -> anyhow::Result<()> {
        let status = format!("/proc/{}/status", self.member(number)?.child.id());
        let begun = Instant::now();
        while !std::fs::read_to_string(&status)?.contains("State:\tT") {
            ensure!(begun.elapsed() < PATIENCE, "{} does not stop", self.name(number));
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Makes the broken one whole: it wakes, its wire carries again, or another process takes its place.
    pub(super) async fn mend(&mut self, number: usize, kind: Kind) -> anyhow::Result<()> {
        let gangsaw = self.gangsaw.clone();
        let member = self.members.get_mut(number).context("no such scheduler")?;
        match kind {
            Kind::Stopped => Ok(kill_process(Pid::from_child(&member.child), Signal::CONT)?),
            Kind::CutOff => {
                member.relay.set_whole(true);
                Ok(())
            }
            Kind::Killed | Kind::Planned => {
                let ended = member.child.wait()?;
                ensure!(kind == Kind::Killed || ended.success(), "told to end, it ended with {ended}");
                let listen = member.address()?;
                std::fs::remove_file(member.state().join("address"))?;
                member.child = spawn(&gangsaw, member.folder.path(), &listen, member.relay.port)?;
                member.until_it_serves().await
            }
        }
    }

    /// Waits until a scheduler says that it stands by.
    pub(super) async fn until_it_stands_by(&self, number: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.leads(number).await? != Some(false) {
            ensure!(begun.elapsed() < PATIENCE, "{} does not stand by", self.name(number));
            tokio::time::sleep(super::clients::PAUSE).await;
        }
        Ok(())
    }

    /// Returns where the leader's clients knock.
    pub(super) async fn leader(&self) -> anyhow::Result<Door> {
        for number in 0..self.members.len() {
            if self.leads(number).await? == Some(true) {
                return self.door(number);
            }
        }
        bail!("nobody leads")
    }

    /// Says whether a scheduler leads; `None`: it does not say.
    async fn leads(&self, number: usize) -> anyhow::Result<Option<bool>> {
        let Ok(mut client) = self.door(number)?.connect().await else { return Ok(None) };
        let asked = client.list_jobs(jobs::ListJobsRequest { page_size: 1, ..Default::default() });
        match tokio::time::timeout(super::clients::CALL_WAIT, asked).await {
            Ok(Ok(_)) => Ok(Some(true)),
            Ok(Err(status)) if status.code() == Code::Unavailable => Ok(Some(false)),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Ok(None),
        }
    }
}

impl Member {
    fn state(&self) -> PathBuf {
        self.folder.path().join("state/scheduler")
    }

    fn address(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.state().join("address"))?)
    }

    fn door(&self) -> anyhow::Result<Door> {
        let token = std::fs::read_to_string(self.state().join("token"))?;
        Ok(Door::of(format!("http://{}", self.address()?), token))
    }

    async fn until_it_serves(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.address().is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
                bail!("gangsaw ended with {status}: {said}");
            }
            ensure!(begun.elapsed() < PATIENCE, "a scheduler does not serve");
            tokio::time::sleep(super::clients::PAUSE).await;
        }
        Ok(())
    }
}

fn spawn(gangsaw: &Path, folder: &Path, listen: &str, port: u16) -> anyhow::Result<Child> {
    let stderr = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("stderr"))?;
    Command::new(gangsaw)
        .args(["scheduler", "--listen", listen, "--state"])
        .arg(folder.join("state"))
        .env("XDG_STATE_HOME", folder)
        .env("GANGSAW_STORE", format!("postgresql://gangsaw@127.0.0.1:{port}/postgres"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot start {}", gangsaw.display()))
}
