//! The authority: one key pair that signs the certificates of this scheduler and of its nodes.
//!
//! Invariants:
//! - Its key never leaves the folder, and no file here is readable by anyone but its owner.
//! - What it signs is made here from plain values; nothing a client asks for goes into a certificate but its public key.
//! - A server's certificate serves and a node's certificate dials: neither passes for the other.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData as _, SanType,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, DnsName};
use sha2::{Digest, Sha256};

use super::{NodeCertificate, TlsError};
use crate::token::{hex, write_private};

/// Life of an authority: ten years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// A certificate counts from so much before it was made, or a 24th of its life, for clocks that are a little behind.
const BEHIND: Duration = Duration::from_secs(3600);

/// Largest request for a certificate that is read; one of ours has 300 bytes.
const REQUEST_BYTES_MAX: usize = 4 << 10;

/// A certificate authority, with its key.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one and writes it down.
    pub(super) fn make(folder: &Path, now_ms: u64) -> Result<Authority, TlsError> {
        let key = KeyPair::generate().map_err(refused)?;
        let mut params = lasting(now_ms, AUTHORITY_LIFE);
        // Names of authorities differ, so that a client that knows several tries the right one.
        let mark: String = hex(&Sha256::digest(key.serialize_der())).chars().take(8).collect();
        params.distinguished_name = named(&format!("gangsaw authority {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(refused)?;
        // The key first: a certificate without one would look like an authority.
        for (name, text) in [("ca.key", key.serialize_pem()), ("ca.pem", certificate.pem())] {
            let path = folder.join(name);
            write_private(&path, text.as_bytes()).map_err(TlsError::io(&path))?;
        }
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Ok(Authority { certificate, pem, issuer: Issuer::new(params, key) })
    }

    /// Reads the one of a folder. `None`: there is none.
    pub(super) fn load(folder: &Path) -> Result<Option<Authority>, TlsError> {
        let path = folder.join("ca.pem");
        let pem = match std::fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TlsError::Io { path, source }),
        };
        let bad = |path: &Path, what| TlsError::Bad { path: path.to_owned(), what };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad(&path, "a certificate"))?;
        let key_path = folder.join("ca.key");
        let text = std::fs::read_to_string(&key_path).map_err(TlsError::io(&key_path))?;
        let key = KeyPair::from_pem(&text).map_err(|_| bad(&key_path, "a private key"))?;
        if !super::read::has_key(&certificate, &key) {
            return Err(bad(&key_path, "the key of ca.pem"));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| bad(&path, "an authority"))?;
        Ok(Some(Authority { certificate, pem, issuer }))
    }

    /// Returns its certificate as clients keep it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the SHA-256 of its certificate in hex: what clients pin.
    pub(crate) fn hash(&self) -> String {
        hex(&Sha256::digest(&self.certificate))
    }

    /// Returns a certificate and its new key, to serve with under `names`.
    pub(super) fn server_pem(&self, names: &[String], now_ms: u64, life: Duration) -> Result<String, TlsError> {
        let key = KeyPair::generate().map_err(refused)?;
        let mut params = lasting(now_ms, life);
        params.distinguished_name = named("gangsaw scheduler");
        params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.sign(params, &key)?;
        Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    /// Returns a certificate for a node, with the key that `wanted` proves and nothing else of it.
    pub(super) fn node_certificate(
        &self,
        wanted: &Wanted,
        node: &NodeCertificate,
        now_ms: u64,
        life: Duration,
    ) -> Result<Vec<u8>, TlsError> {
        let mut params = lasting(now_ms, life);
        params.distinguished_name = named(&node.name);
        let urn = node.urn().as_str().try_into().map_err(|_| TlsError::Name(node.uuid.clone()))?;
        params.subject_alt_names = vec![SanType::URI(urn)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(self.sign(params, &wanted.0)?.der().to_vec())
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<rcgen::Certificate, TlsError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).map_err(refused)
    }
}

/// A key that somebody wants a certificate for, and has proved to hold.
pub(crate) struct Wanted(PublicKey);

impl Wanted {
    /// Reads a request (PKCS #10) and checks its signature.
    pub(crate) fn read(request: &[u8]) -> Result<Wanted, &'static str> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err("is too large");
        }
        let request = CertificateSigningRequestDer::from(request);
        let read = CertificateSigningRequestParams::from_der(&request).map_err(|_| "is none, or is not signed")?;
        Ok(Wanted(read.public_key))
    }

    /// Returns the key itself.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.0.der_bytes()
    }
}

/// Returns what this machine is called by those on it, and its host name.
pub(super) fn own_names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // A host may be called what no certificate can carry.
    names.extend(san(&host).is_ok().then_some(host));
    names
}

/// Refuses the first name that no certificate can carry.
pub(super) fn check_names(names: &[String]) -> Result<(), TlsError> {
    names.iter().try_for_each(|name| san(name).map(|_| ()))
}

fn san(name: &str) -> Result<SanType, TlsError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || TlsError::Name(name.to_owned());
    DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

fn lasting(now_ms: u64, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(now_ms);
    params.not_before = now - BEHIND.min(life / 24);
    params.not_after = now + life;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn refused(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}
