//! The token for a scheduler: from the environment, or from the credentials file of its address.
//!
//! A scheduler on loopback writes its token to `$XDG_STATE_HOME/gangsaw/credentials/HOST:PORT`, readable by its owner
//! alone. Everybody who may read it may speak to that scheduler.
//!
//! Invariants: a token is never logged, and is looked up again on every dial, because a scheduler may be made anew.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 7461;
/// Longest token file that is read.
const TOKEN_MAX_BYTES: usize = 4096;

/// A scheduler's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `https`.
    pub(crate) tls: bool,
}

/// Why a server address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Not a URL of the form `http://HOST:PORT` or `https://HOST:PORT`.
    #[error("`{0}` is not an address like http://127.0.0.1:7461 or https://head:7461")]
    Malformed(String),
}

impl Server {
    /// Parses several addresses, separated by commas: the first, and the others.
    pub(crate) fn parse_list(urls: &str) -> Result<(Server, Vec<Server>), ServerError> {
        let (first, others) = match urls.split_once(',') {
            Some((first, others)) => (first, others.split(',').map(|url| Server::parse(url.trim())).collect()),
            None => (urls, Ok(Vec::new())),
        };
        Ok((Server::parse(first.trim())?, others?))
    }

    /// Parses `http://HOST[:PORT]`, the same without the scheme, or `https://HOST[:PORT]`.
    pub(crate) fn parse(url: &str) -> Result<Server, ServerError> {
        let malformed = || ServerError::Malformed(url.to_owned());
        let tls = url.starts_with("https://");
        let rest = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap_or(url).trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && (!host.contains(':') || host.ends_with(']')) => {
                (host, port.parse().map_err(|_| malformed())?)
            }
            Some(_) | None => (rest, DEFAULT_PORT),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/?#@".contains(c);
        if host.is_empty() || host.contains(odd) {
            return Err(malformed());
        }
        Ok(Server { host: host.to_owned(), port, tls })
    }

    /// The address for a connection.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }

    /// Whether it can only be this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Names of credentials files that may hold its token, most exact first.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut hosts = vec![self.host.as_str()];
        if self.is_loopback() {
            hosts.extend(["127.0.0.1", "localhost", "[::1]"].into_iter().filter(|host| *host != self.host));
        }
        hosts.into_iter().map(|host| format!("{host}:{}", self.port)).collect()
    }
}

/// Finds the token: the given one, or the file's. Nothing when there is neither.
pub(crate) fn find(given: Option<&str>, server: &Server) -> Option<String> {
    if let Some(token) = given.filter(|token| !token.is_empty()) {
        return Some(token.to_owned());
    }
    find_in(&credentials()?, server)
}

/// This user's folder of tokens and pinned authorities.
pub(crate) fn credentials() -> Option<PathBuf> {
    let folder = state_home(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))?;
    Some(folder.join("gangsaw").join("credentials"))
}

fn find_in(folder: &Path, server: &Server) -> Option<String> {
    server.names().iter().find_map(|name| {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        let token = text.trim();
        let good = !token.is_empty() && token.len() <= TOKEN_MAX_BYTES && token.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| token.to_owned())
    })
}

fn state_home(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    xdg.map(PathBuf::from)
        .filter(absolute)
        .or_else(|| home.map(PathBuf::from).filter(absolute).map(|home| home.join(".local").join("state")))
}

#[cfg(test)]
mod tests {
    //! Addresses and files.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn server(host: &str, port: u16) -> Server {
        Server { host: host.to_owned(), port, tls: false }
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(Server::parse("http://127.0.0.1:7461"), Ok(server("127.0.0.1", 7461)));
        assert_eq!(Server::parse("http://[::1]:80/"), Ok(server("[::1]", 80)));
        assert_eq!(Server::parse("head.example"), Ok(server("head.example", DEFAULT_PORT)));
        let secure = Server { tls: true, ..server("head", 1) };
        assert_eq!(secure.url(), "https://head:1");
        assert_eq!(Server::parse("https://head:1"), Ok(secure));
        for bad in ["", "http://", "http://a b", "http://a:x", "http://u@h", "http://h/p", "http://h:99999"] {
            assert_eq!(Server::parse(bad), Err(ServerError::Malformed(bad.to_owned())));
        }
    }

    #[test]
    fn several_addresses_are_separated_by_commas_and_each_must_be_one() {
        let (first, others) = Server::parse_list("http://a:1, b:2,c").unwrap();
        let all: Vec<String> = std::iter::once(first).chain(others).map(|server| server.url()).collect();
        assert_eq!(all, ["http://a:1", "http://b:2", &format!("http://c:{DEFAULT_PORT}")]);
        assert_eq!(Server::parse_list("a:1,").unwrap_err(), ServerError::Malformed(String::new()));
    }

    #[test]
    fn token_is_found_by_address_and_by_any_name_of_loopback() {
        let folder = std::env::temp_dir().join(format!("gangsaw-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("127.0.0.1:7"), "secret\n").unwrap();
        std::fs::write(folder.join("127.0.0.1:8"), "two words\n").unwrap();
        let look = |url: &str| find_in(&folder, &Server::parse(url).unwrap());
        assert_eq!(look("http://127.0.0.1:7").as_deref(), Some("secret"));
        assert_eq!(look("http://localhost:7").as_deref(), Some("secret"));
        assert_eq!(look("http://10.0.0.1:7"), None);
        assert_eq!(look("http://127.0.0.1:8"), None);
        assert_eq!(find(Some("given"), &server("h", 1)).as_deref(), Some("given"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn relative_state_home_is_ignored() {
        let home = Some(OsString::from("/h"));
        assert_eq!(state_home(Some("/x".into()), home.clone()), Some(PathBuf::from("/x")));
        assert_eq!(state_home(Some("x".into()), home), Some(PathBuf::from("/h/.local/state")));
        assert_eq!(state_home(None, None), None);
    }
}
