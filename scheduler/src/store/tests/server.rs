//! A PostgreSQL of a test's own: a temporary folder, a socket in it, nothing left when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server that runs.
pub(crate) struct Server {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) bin: PathBuf,
    pub(crate) options: String,
}

impl Server {
    /// Starts a server, or says why this machine has none; with CI=true that is a failure.
    pub(crate) fn start() -> Option<Server> {
        Server::start_with("-c fsync=off")
    }

    /// Starts a server with options of its own.
    pub(crate) fn start_with(options: &str) -> Option<Server> {
        let server = Server::of_nothing(options)?;
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "gangsaw", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]);
        server.up();
        Some(server)
    }

    /// Returns a server without data, if this machine has one.
    pub(crate) fn of_nothing(options: &str) -> Option<Server> {
        let Some(bin) = programs() else {
            let lacks = "PostgreSQL is not installed (Debian: postgresql), so this is not tested";
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{lacks}");
            println!("{lacks}");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("gangsaw-pg").tempdir_in("/tmp").unwrap();
        let server = Server { folder, bin, options: options.to_owned() };
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("postgres").arg(server.folder.path()).status().unwrap().success());
        }
        Some(server)
    }

    /// Starts it again after [`Server::crash`].
    pub(crate) fn up(&self) {
        let socket = self.folder.path().display();
        let options = format!("-k {socket} -c listen_addresses= {}", self.options);
        let log = format!("{socket}/log");
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    /// Ends it without a checkpoint, as a crash would.
    pub(crate) fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }

    /// The folder its socket is in.
    pub(crate) fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql:///postgres?user=gangsaw&host={}", self.folder())
    }

    /// Runs statements in a session of their own and returns what they print.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(), "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Runs one of PostgreSQL's programs; the server refuses to run as root.
    pub(crate) fn run(&self, program: &str, args: &[&str]) {
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
        let out = || Stdio::from(std::fs::OpenOptions::new().create(true).append(true).open(&said).unwrap());
        let status = command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(out())
            .stderr(out())
            .status();
        let text = || std::fs::read_to_string(&said).unwrap_or_default();
        assert!(status.unwrap().success(), "{}: {}", program.display(), text());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap_or_default();
        if pid.lines().next().is_some_and(|pid| Path::new("/proc").join(pid).exists()) {
            self.crash();
        }
    }
}

/// Returns the folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.flatten().map(|entry| entry.path()).max_by_key(number)?;
    Some(newest.join("bin")).filter(|bin| bin.join("initdb").exists())
}
