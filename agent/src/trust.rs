//! Trust: which scheduler a client believes, and what it shows of itself.
//!
//! A scheduler's authority is pinned: a client keeps the authority's certificate as `HOST:PORT.pem` beside the token for
//! that address and believes nothing else, above all not the authorities of the operating system. It gets there by the
//! scheduler itself (same user, same machine), by a hash that somebody handed over ([`fetch`]), or is named by
//! `GANGSAW_CA`.
//!
//! Invariants:
//! - TLS 1.3 only, and no certificate is believed whose chain does not end in the pinned authority.
//! - A failed handshake says which side, which certificate and whose clock, as far as it can be known.
//!
//! Elsewhere: a node's own certificate is `session::identity`; the other side is the scheduler's `tls`.

mod dial;
mod pinned;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

pub use dial::{LastWord, channel};
pub use pinned::fetch;

/// Names a file with the authority to believe, for any address.
const CA_VARIABLE: &str = "GANGSAW_CA";

/// Why a scheduler is not believed, or does not believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Nothing is pinned for the address.
    #[error("no authority is known for {0}")]
    Unknown(String),
    /// What was pinned cannot be used.
    #[error("{0} does not hold an authority's certificate")]
    BadFile(PathBuf),
    /// The scheduler cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Its certificate is not believed, or ours is not.
    #[error("{0}")]
    Handshake(String),
}

/// An authority's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca(CertificateDer<'static>);

impl Ca {
    /// Reads one from PEM.
    #[must_use]
    pub fn from_pem(pem: &[u8]) -> Option<Ca> {
        CertificateDer::from_pem_slice(pem).ok().map(Ca)
    }

    /// Returns it as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", self.0.to_vec()))
    }

    /// Returns its SHA-256 in hex: what people compare and pin.
    #[must_use]
    pub fn hash(&self) -> String {
        hash_of(&self.0)
    }
}

fn hash_of(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the authority to believe at an address: the one `GANGSAW_CA` names, else the one pinned in `credentials`
/// under the first of `names`.
///
/// # Errors
/// There is none, or the file does not hold one.
pub fn stored_ca(credentials: Option<&Path>, names: &[String]) -> Result<Ca, TrustError> {
    let named = std::env::var_os(CA_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let pinned = credentials.into_iter().flat_map(|folder| names.iter().map(|name| folder.join(format!("{name}.pem"))));
    let mut files: Vec<PathBuf> = named.into_iter().collect();
    if files.is_empty() {
        files.extend(pinned);
    }
    let Some((path, pem)) = files.into_iter().find_map(|path| Some((path.clone(), std::fs::read(path).ok()?))) else {
        return Err(TrustError::Unknown(names.first().cloned().unwrap_or_default()));
    };
    Ca::from_pem(&pem).ok_or(TrustError::BadFile(path))
}

/// What a node shows: its certificate and key.
pub(crate) type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Returns what a client speaks that believes `ca` and shows nothing.
///
/// # Errors
/// The certificate is no authority's.
pub fn config(ca: &Ca) -> Result<Arc<ClientConfig>, TrustError> {
    config_with(ca, None)
}

/// Returns what a client speaks that believes `ca`, and as what.
pub(crate) fn config_with(ca: &Ca, shown: Option<Shown>) -> Result<Arc<ClientConfig>, TrustError> {
    let refused = |error: rustls::Error| TrustError::Handshake(dial::explain(&error));
    let mut roots = RootCertStore::empty();
    roots.add(ca.0.clone()).map_err(refused)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).map_err(refused)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    //! Which authority is believed.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_authority_is_found_under_the_names_of_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["head:1".to_owned(), "localhost:1".to_owned()];
        let missing = stored_ca(Some(folder.path()), &names).unwrap_err();
        assert_eq!(missing, TrustError::Unknown("head:1".to_owned()));
        let file = folder.path().join("localhost:1.pem");
        std::fs::write(&file, "nonsense").unwrap();
        assert_eq!(stored_ca(Some(folder.path()), &names).unwrap_err(), TrustError::BadFile(file.clone()));
        let ca = Ca(CertificateDer::from(vec![1, 2, 3]));
        std::fs::write(&file, ca.pem()).unwrap();
        let found = stored_ca(Some(folder.path()), &names).unwrap();
        assert_eq!(found, ca);
        assert_eq!(found.hash(), "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81");
    }
}
