//! A cluster of its own: `gangsaw up` in a temporary folder on a free loopback port, and a client of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// How long a cluster may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds the bearer token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client of the cluster under test.
pub(crate) type Client = JobsServiceClient<InterceptedService<Channel, Bearer>>;

/// A running cluster. Dropping it ends its processes and removes its folder.
pub(crate) struct Cluster {
    child: Child,
    folder: TempDir,
    address: String,
    token: String,
}

impl Cluster {
    /// Starts a scheduler, and an agent if `with_agent`, and waits until they answer.
    pub(crate) async fn start(gangsaw: &Path, with_agent: bool) -> anyhow::Result<(Cluster, Client)> {
        let folder = tempfile::Builder::new().prefix("gangsaw-bench-").tempdir()?;
        let verb = if with_agent { "up" } else { "scheduler" };
        let child = spawn(gangsaw, verb, "127.0.0.1:0", folder.path())?;
        let mut cluster = Cluster { child, folder, address: String::new(), token: String::new() };
        cluster.address = cluster.read("state/scheduler/address").await?;
        cluster.token = cluster.read(&format!("gangsaw/credentials/{}", cluster.address)).await?;
        let client = cluster.connect().await?;
        Ok((cluster, client))
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.door().connect().await
    }

    /// Returns where its clients knock.
    pub(crate) fn door(&self) -> Door {
        Door { url: self.url(), token: self.token.clone() }
    }

    /// Kills the scheduler with SIGKILL, starts it again where it was, and returns how long that took to the first
    /// answer, counted from the kill.
    pub(crate) async fn restart(&mut self, gangsaw: &Path) -> anyhow::Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begin = Instant::now();
        self.child = spawn(gangsaw, "scheduler", &self.address, self.folder.path())?;
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                bail!("gangsaw ended with {status}: {}", self.stderr());
            }
            if let Ok(mut client) = self.connect().await {
                match client.list_jobs(jobs::ListJobsRequest { page_size: 1, ..Default::default() }).await {
                    Ok(_) => return Ok(begin.elapsed()),
                    // It listens before it leads, and a crowd at its door may cost a connection.
                    Err(status) if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown) => {}
                    Err(status) => return Err(status.into()),
                }
            }
            pace.tick().await;
        }
        bail!("the scheduler was not back within {PATIENCE:?}")
    }

    /// Returns what the scheduler has counted.
    pub(crate) fn counts(&self) -> anyhow::Result<Counts> {
        let mut stream = TcpStream::connect(&self.address)?;
        let (address, token) = (&self.address, &self.token);
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("no {name} in {text}"))
        };
        Ok(Counts {
            events: of("gangsaw_events_appended_total")?,
            batches: of("gangsaw_batches_appended_total")?,
            append_seconds: of("gangsaw_append_seconds_sum")?,
        })
    }

    /// Returns a file's text once the file is there and not empty.
    async fn read(&mut self, name: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join(name);
        let deadline = Instant::now() + PATIENCE;
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while Instant::now() < deadline {
            match std::fs::read_to_string(&path) {
                Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
                Ok(_) | Err(_) => {}
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("gangsaw ended with {status}: {}", self.stderr());
            }
            pace.tick().await;
        }
        bail!("{} did not appear within {PATIENCE:?}: {}", path.display(), self.stderr())
    }

    /// Returns what the cluster has said on stderr.
    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Returns the folder the cluster keeps its state in.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns a command line that speaks to this cluster.
    pub(crate) fn command(&self, gangsaw: &Path) -> Command {
        let mut command = Command::new(gangsaw);
        command
            .env("XDG_STATE_HOME", self.folder.path())
            .env("GANGSAW_SERVER", format!("http://{}", self.address))
            .env("GANGSAW_TOKEN", &self.token)
            .stdin(Stdio::null());
        command
    }

    /// Returns the address as agents are given it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the token that every call carries.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Returns the pid of the process this cluster was started as.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the cluster as a service manager would, and waits for it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        terminate(&self.child);
        let deadline = Instant::now() + PATIENCE;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            pace.tick().await;
        }
        bail!("gangsaw did not end within {PATIENCE:?}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            terminate(&self.child);
            // A bench that failed must not leave a cluster behind; what it returns is of no use here.
            drop(self.child.wait());
        }
    }
}

/// Where clients of a cluster knock, whoever holds the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    url: String,
    token: String,
}

impl Door {
    /// Returns the door of a scheduler that somebody else holds.
    pub(crate) fn of(url: String, token: String) -> Door {
        Door { url, token }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let channel = Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true).connect().await?;
        let bearer = Bearer(format!("Bearer {}", self.token).parse()?);
        Ok(JobsServiceClient::with_interceptor(channel, bearer))
    }
}

/// What a scheduler has counted since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) events: f64,
    pub(crate) batches: f64,
    append_seconds: f64,
}

impl Counts {
    /// Returns what was counted since `before`.
    pub(crate) fn since(&self, before: &Counts) -> Counts {
        Counts {
            events: self.events - before.events,
            batches: self.batches - before.batches,
            append_seconds: self.append_seconds - before.append_seconds,
        }
    }

    /// Returns the mean time of an append in ms.
    pub(crate) fn append_ms(&self) -> f64 {
        self.append_seconds * 1e3 / self.batches.max(1.0)
    }
}

/// Starts a verb whose state lies in `folder`.
fn spawn(gangsaw: &Path, verb: &str, listen: &str, folder: &Path) -> anyhow::Result<Child> {
    Command::new(gangsaw)
        .args([verb, "--listen", listen, "--state"])
        .arg(folder.join("state"))
        .env("XDG_STATE_HOME", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("stderr"))?)
        .spawn()
        .with_context(|| format!("cannot start {}", gangsaw.display()))
}

/// Sends SIGTERM to a child.
fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // The child may have ended by itself: then there is nobody to tell.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Returns a submit of one job that runs `argv`, as an array of `elements` if more than one.
pub(crate) fn submit(argv: &[&str], elements: u32) -> jobs::SubmitRequest {
    let array = (elements > 1).then(|| jobs::Array {
        ranges: vec![jobs::IndexRange { first: 0, last: elements - 1, step: 1 }],
        running_max: 0,
    });
    let args = argv.iter().map(|argument| (*argument).to_owned()).collect();
    let spec = jobs::JobSpec {
        work: Some(jobs::job_spec::Work::Argv(jobs::Argv { args })),
        exported_env: std::env::vars().filter(|(name, _)| name == "PATH").collect(),
        array,
        ..jobs::JobSpec::default()
    };
    jobs::SubmitRequest {
        idempotency_key: uuid::Uuid::new_v4().to_string(),
        jobs: vec![spec],
        // Whoever runs the scheduler.
        user: String::new(),
    }
}
