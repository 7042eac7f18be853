//! What `init` makes, who believes it, and that it renews itself.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn localhost() -> IpAddr {
    "127.0.0.1".parse().unwrap()
}

fn opened(state: &Path) -> ServerTls {
    ServerTls::open(&state.join("scheduler"), localhost()).unwrap().unwrap()
}

/// Whether somebody who pins the authority believes the served certificate for `name` at `now_ms`.
fn believes(tls: &ServerTls, name: &str, now_ms: u64) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(tls.authority.certificate.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let served = tls.current.0.read().unwrap().cert[0].clone();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&served, &[], &name, &[], now).is_ok()
}

#[test]
fn init_makes_an_authority_once_and_a_certificate_for_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let made = init(dir.path(), &["head.example".to_owned(), "10.0.0.5".to_owned()]).unwrap();
    assert!(!made.kept && made.ca_hash.len() == 64);
    let tls = opened(dir.path());
    for name in ["localhost", "127.0.0.1", "head.example", "10.0.0.5"] {
        assert!(believes(&tls, name, wall_ms()), "{name}");
    }
    assert!(!believes(&tls, "other.example", wall_ms()));
    let again = init(dir.path(), &[]).unwrap();
    assert!(again.kept && again.ca_hash == made.ca_hash, "the authority stays");
    assert!(!believes(&opened(dir.path()), "head.example", wall_ms()), "the names are the ones asked for last");
}

#[test]
fn every_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &[]).unwrap();
    let folder = dir.path().join("scheduler/tls");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for name in ["ca.pem", "ca.key", "server.pem"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_name_that_no_certificate_can_carry_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let refused = init(dir.path(), &["two words".to_owned()]).unwrap_err();
    assert_eq!(refused.to_string(), "`two words` is neither a host name nor an IP address");
    assert!(!dir.path().join("scheduler/tls/ca.pem").exists());
}

#[test]
fn the_address_that_is_listened_at_gets_a_name() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &[]).unwrap();
    assert!(!believes(&opened(dir.path()), "10.9.8.7", wall_ms()));
    let tls = ServerTls::open(&dir.path().join("scheduler"), "10.9.8.7".parse().unwrap()).unwrap().unwrap();
    assert!(believes(&tls, "10.9.8.7", wall_ms()));
}

#[test]
fn a_served_certificate_is_renewed_when_a_third_of_its_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &[]).unwrap();
    let folder = folder_of(&dir.path().join("scheduler"));
    let tls = opened(dir.path());
    let day = |days: u64| wall_ms() + days * DAY_MS;
    assert!(!tls.renew(day(50)).unwrap(), "40 of 90 days are left");
    // As if it had been made 70 days ago.
    let old = tls.authority.server_pem(&tls.names, wall_ms() - 70 * DAY_MS, SERVER_LIFE).unwrap();
    std::fs::write(folder.join("server.pem"), old).unwrap();
    assert!(!believes(&tls, "localhost", day(91)));
    assert!(tls.renew(wall_ms()).unwrap());
    assert!(!tls.renew(wall_ms()).unwrap());
    assert!(believes(&tls, "localhost", day(89)));
    let another = opened(dir.path());
    assert!(believes(&another, "localhost", day(89)), "it is on disk, too");
}

#[test]
fn a_key_of_another_authority_is_refused_by_name() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    init(one.path(), &[]).unwrap();
    init(other.path(), &[]).unwrap();
    let key = |dir: &tempfile::TempDir| dir.path().join("scheduler/tls/ca.key");
    std::fs::copy(key(&other), key(&one)).unwrap();
    let Err(refused) = ServerTls::open(&one.path().join("scheduler"), localhost()) else { panic!("it was taken") };
    assert!(refused.to_string().ends_with("ca.key does not hold the key of ca.pem"), "{refused}");
}
