//! Reading certificates that are already believed: ours, and those whose chain rustls has verified.

use std::net::IpAddr;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

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
