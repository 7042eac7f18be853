//! Where a notice may go.

use std::net::IpAddr;

use super::address::{Refused, is_forbidden, resolve};

#[test]
fn machines_back_doors_are_forbidden_in_every_notation() {
    let forbidden = |text: &str| is_forbidden(text.parse::<IpAddr>().expect(text));
    for bad in [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "192.0.0.192",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::ffff:100.100.100.200",
    ] {
        assert!(forbidden(bad), "{bad}");
    }
    for good in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.7", "172.16.0.1", "8.8.8.8", "2001:db8::1", "fd00::1"] {
        assert!(!forbidden(good), "{good}");
    }
}

#[tokio::test]
async fn a_host_is_checked_by_what_it_resolves_to() {
    // Numbers that are no dotted quad, and still an address to the resolver.
    for host in ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:a9fe:a9fe]"] {
        let found = resolve(host, 80).await;
        assert!(matches!(found, Err(Refused::Forbidden { .. })), "{host}: {found:?}");
    }
    assert!(resolve("localhost", 80).await.is_ok_and(|found| found.iter().all(|address| address.ip().is_loopback())));
    assert!(matches!(resolve("no-such-host.invalid", 80).await, Err(Refused::Unknown { .. })));
}
