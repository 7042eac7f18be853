//! A PostgreSQL that speaks TLS, with a certificate that the test makes, for the name `db.example` and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::Server;

/// A server that listens on 127.0.0.1 with TLS and wants a password there.
pub(crate) struct Secure {
    pub(crate) server: Server,
    port: u16,
    certificates: tempfile::TempDir,
}

/// Makes an authority, and another; the one signs a certificate for the server.
const CERTIFICATES: &str = r#"
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" "${@:2}"; }
for name in ca other; do
    new "$name" -x509 -out "$name.pem" -days 2 -subj "/CN=$name" -addext basicConstraints=critical,CA:TRUE
done
new server -out server.csr -subj /CN=server
echo subjectAltName=DNS:db.example > names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem
"#;
/// Who may come, and how: this folder's socket needs nothing, the network a password.
const DOORS: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

impl Secure {
    /// Starts a server, with TLS or without, if this machine has one.
    pub(crate) fn start(tls: bool) -> Option<Secure> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = "-c ssl_cert_file=server.pem -c ssl_key_file=server.key -c fsync=off";
        let ssl = if tls { "on" } else { "off" };
        let options = format!("-c listen_addresses=127.0.0.1 -c port={port} -c ssl={ssl} {settings}");
        let server = Server::of_nothing(&options)?;
        let certificates = tempfile::Builder::new().prefix("gangsaw-certificates").tempdir_in("/tmp").unwrap();
        let made = Command::new("bash").args(["-euc", CERTIFICATES]).current_dir(certificates.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "gangsaw", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]);
        for name in ["server.pem", "server.key"] {
            own(&certificates.path().join(name), &Path::new(&data).join(name));
        }
        std::fs::write(Path::new(&data).join("pg_hba.conf"), DOORS).unwrap();
        server.up();
        let secure = Secure { server, port, certificates };
        secure.sql("ALTER ROLE gangsaw PASSWORD 'open sesame'");
        Some(secure)
    }

    /// The file of the authority that the server's certificate is from, `ca`, or of the other one.
    pub(crate) fn authority(&self, name: &str) -> PathBuf {
        self.certificates.path().join(format!("{name}.pem"))
    }

    /// The address of the server under this name, with `more` behind it.
    pub(crate) fn url(&self, name: &str, more: &str) -> String {
        let port = self.port;
        format!("postgres://gangsaw:open%20sesame@{name}:{port}/postgres?hostaddr=127.0.0.1{more}")
    }

    /// How schedulers are connected now: over which version of TLS, if any, from outside.
    pub(crate) fn sessions(&self) -> String {
        self.sql(
            "SELECT string_agg(DISTINCT coalesce(version, 'clear'), ' ') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE application_name LIKE 'gangsaw %'",
        )
    }

    /// Runs statements through the folder's socket.
    fn sql(&self, sql: &str) -> String {
        let url = format!("{}&port={}", self.server.url(), self.port);
        let output =
            Command::new(self.server.bin.join("psql")).args(["-XAtq", "-d", &url, "-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Copies a file for the server's user alone.
fn own(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::copy(from, to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        assert!(Command::new("chown").arg("postgres").arg(to).status().unwrap().success());
    }
}
