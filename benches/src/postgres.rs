//! A PostgreSQL of a bench's own, with the settings it comes with: a temporary folder and a free port of loopback.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// A server that runs. Dropping it ends it and removes its folder.
pub(crate) struct Postgres {
    folder: TempDir,
    bin: PathBuf,
    /// Port of loopback that it listens on.
    pub(crate) port: u16,
}

impl Postgres {
    /// Makes a database and starts its server.
    pub(crate) fn start() -> anyhow::Result<Postgres> {
        let bin = programs().context("PostgreSQL is not installed (Debian: postgresql)")?;
        let folder = tempfile::Builder::new().prefix("gangsaw-bench-pg-").tempdir()?;
        // Free now; whoever takes it before the server does makes this run fail, and says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Postgres { folder, bin, port };
        if rustix::process::geteuid().is_root() {
            anyhow::ensure!(Command::new("chown").arg("postgres").arg(server.folder.path()).status()?.success());
        }
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "gangsaw", "-A", "trust", "-E", "UTF8", "--locale=C"])?;
        let socket = server.folder.path().display();
        let options = format!("-k {socket} -c listen_addresses=127.0.0.1 -p {port}");
        server.run("pg_ctl", &["-D", &data, "-w", "-l", &format!("{socket}/log"), "-o", &options, "start"])?;
        Ok(server)
    }

    /// Runs statements in a session of their own and returns what they print.
    pub(crate) fn sql(&self, sql: &str) -> anyhow::Result<String> {
        let url = format!("postgresql://gangsaw@127.0.0.1:{}/postgres", self.port);
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql])
            .output()?;
        anyhow::ensure!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Runs one of PostgreSQL's programs; the server refuses to run as root.
    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let program = self.bin.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        // Files, not pipes: the server keeps what it inherits.
        let said = self.folder.path().join("said");
        let out = || std::fs::OpenOptions::new().create(true).append(true).open(&said);
        let status = command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(out()?)
            .stderr(out()?)
            .status()?;
        if !status.success() {
            bail!("{}: {}", program.display(), std::fs::read_to_string(&said).unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        if let Err(error) = self.run("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"]) {
            eprintln!("PostgreSQL was not stopped: {error}");
        }
    }
}

/// Returns the folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(Path::new("/usr/lib/postgresql")).ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.flatten().map(|entry| entry.path()).max_by_key(number)?;
    Some(newest.join("bin")).filter(|bin| bin.join("initdb").exists())
}
