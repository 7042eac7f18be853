//! Believing an authority of which only the hash is known: the first word between a client and a scheduler.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::timeout;

use super::{Ca, TrustError, dial, hash_of, provider};

/// Longest the whole of it may take.
const FETCH_WAIT: Duration = Duration::from_secs(10);

/// Connects to a scheduler whose authority has the SHA-256 `hash` (hex), and returns that authority. The scheduler has
/// then proved that it is believed by it under this host name.
///
/// # Errors
/// Nobody listens there, or the scheduler is another one.
pub async fn fetch(host: &str, port: u16, hash: &str) -> Result<Ca, TrustError> {
    let pinned = Arc::new(Pinned { hash: hash.to_ascii_lowercase(), found: Mutex::default(), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TrustError::Handshake(dial::explain(&error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let dialled = timeout(FETCH_WAIT, dial::dial(host, port, Arc::new(config))).await;
    dialled.unwrap_or_else(|_| Err(dial::late()))?;
    let found = pinned.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.map(Ca).ok_or_else(|| TrustError::Handshake("the scheduler showed no authority".to_owned()))
}

/// Believes a chain that ends in the authority with this hash.
#[derive(Debug)]
struct Pinned {
    hash: String,
    found: Mutex<Option<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        served: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let authority = rest.iter().find(|each| hash_of(each) == self.hash).ok_or(unknown)?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(served, rest, name, ocsp, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.2 is never offered.
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
