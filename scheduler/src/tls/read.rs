//! Reading certificates that are already believed: ours, and those whose chain rustls has verified.

use std::net::IpAddr;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What begins the name of a node in its certificate; its join and its uuid follow.
pub(super) const NODE_URN: &str = "urn:gangsaw:node:";

/// Who a node is, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeCertificate {
    pub(crate) name: String,
    /// Made once in its agent's state folder.
    pub(crate) uuid: String,
    /// Which of its joins the certificate rests on.
    pub(crate) join: u64,
}

impl NodeCertificate {
    /// Returns the name that the certificate carries for programs.
    pub(super) fn urn(&self) -> String {
        format!("{NODE_URN}{}:{}", self.join, self.uuid)
    }
}

/// Returns the node of a certificate that rustls has verified. `None`: it is no node's.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeCertificate> {
    let (_, x509) = X509Certificate::from_der(certificate).ok()?;
    let name = x509.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let names = x509.subject_alternative_name().ok()??;
    let urn = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URN),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::DNSName(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    })?;
    let (join, uuid) = urn.split_once(':')?;
    Some(NodeCertificate { name, uuid: uuid.to_owned(), join: join.parse().ok()? })
}

/// Returns when a certificate ends, in ms since 1970: after the whole of its last second.
pub(crate) fn until_ms(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, x509) = X509Certificate::from_der(certificate).ok()?;
    Some(u64::try_from(x509.validity().not_after.timestamp()).ok()?.saturating_add(1).saturating_mul(1000))
}

/// Returns the names and the life (ms since 1970) of a server's certificate.
pub(super) fn served(certificate: &CertificateDer<'_>) -> Option<(Vec<String>, (u64, u64))> {
    let (_, x509) = X509Certificate::from_der(certificate).ok()?;
    let names = x509.subject_alternative_name().ok()??.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    });
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0) * 1000;
    let life = (ms(x509.validity().not_before.timestamp()), ms(x509.validity().not_after.timestamp()));
    Some((names.collect(), life))
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok().map(|address| address.to_string())
}

/// Says whether `key` is the key of a certificate.
pub(super) fn has_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, x509)| x509.public_key().raw == key.subject_public_key_info())
}
