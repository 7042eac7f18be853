//! The loopback token: a random secret made once per state folder and kept over restarts.
//!
//! Loopback is shared by every local user, so an address alone admits nobody. The scheduler keeps its token in the
//! state folder and leaves a copy under `credentials/HOST:PORT`, where clients of the same user look it up by address.
//!
//! Invariants:
//! - Neither file is ever readable by anyone but its owner, not even while it is being written.
//! - Tokens are compared in constant time.
//!
//! Elsewhere: asking for the token is `rpc::auth`; tokens of people are in `keyring`; clients have their own look-up.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::tls::ServerTls;

/// Random bytes in a token: 256 bits, far beyond guessing.
const TOKEN_BYTES: usize = 32;

/// A scheduler's secret. `Debug` does not show it.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Reads the token of the state folder `dir`, or makes it.
    ///
    /// # Errors
    /// The file cannot be read or written, or does not hold a token.
    pub fn of_folder(dir: &Path) -> io::Result<Token> {
        let path = dir.join("token");
        match std::fs::read_to_string(&path) {
            Ok(text) => parse(text.trim()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold a token", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = Token::random()?;
                write_private(&path, token.0.as_bytes())?;
                Ok(token)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a new secret.
    pub(crate) fn random() -> io::Result<Token> {
        random::<TOKEN_BYTES>().map(|bytes| Token(hex(&bytes)))
    }

    /// Returns whether `presented` is this token, in time that does not depend on where they differ.
    #[must_use]
    pub fn admits(&self, presented: &[u8]) -> bool {
        same(self.0.as_bytes(), presented)
    }

    /// Returns the secret itself, for the one who sends it.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

/// Returns bytes that nobody can guess.
pub(crate) fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0_u8; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares a secret with what was presented, in time that does not depend on where they differ.
pub(crate) fn same(secret: &[u8], presented: &[u8]) -> bool {
    let mut difference = secret.len() ^ presented.len();
    for (index, byte) in secret.iter().enumerate() {
        difference |= usize::from(byte ^ presented.get(index).copied().unwrap_or(0));
    }
    difference == 0
}

fn parse(text: &str) -> Option<Token> {
    (text.len() == 2 * TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Token(text.to_owned()))
}

/// Leaves the token where this user's clients look it up by address: under every name the scheduler has, and with TLS
/// the authority beside it.
///
/// # Errors
/// The folder or a file cannot be written.
pub(crate) fn leave_credentials(
    credentials: &Path,
    address: SocketAddr,
    token: &Token,
    tls: Option<&ServerTls>,
) -> io::Result<()> {
    make_private_folder(credentials)?;
    for name in names(address, tls.map(ServerTls::names).unwrap_or_default()) {
        write_private(&credentials.join(&name), token.0.as_bytes())?;
        if let Some(tls) = tls {
            write_private(&credentials.join(format!("{name}.pem")), tls.authority.pem().as_bytes())?;
        }
    }
    Ok(())
}

/// Returns `HOST:PORT` for everything that leads to `address`: itself, and if it is every address of this machine, all
/// that the certificate names.
fn names(address: SocketAddr, named: &[String]) -> Vec<String> {
    if !address.ip().is_unspecified() {
        return vec![address.to_string()];
    }
    let port = address.port();
    let with_port = |name: &String| match name.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{name}:{port}"),
    };
    named.iter().map(with_port).collect()
}

/// Returns this user's credentials folder: `$XDG_STATE_HOME/gangsaw/credentials`, else below `$HOME/.local/state`.
#[must_use]
pub fn credentials_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("gangsaw/credentials"))
}

/// Makes a folder, and those above it, for its owner only.
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file atomically with one that only its owner may read.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests;
