//! Where a notice may go: the addresses a URL's host has now, if none of them is a machine's own back door.
//!
//! A URL comes from whoever submits, and the scheduler has a better view of the network than they have. Refused is what
//! cloud machines hand out credentials on, and what is not one machine's address. The check is made on what the name
//! resolves to, and the connection goes to exactly those addresses: a name that changes in between changes nothing.
//! Loopback and private networks are allowed: that is where most receivers are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Metadata services that are not link-local: EC2 over IPv6, Alibaba Cloud, Oracle Cloud.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why a host is not connected to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The name has no address now.
    #[error("{host} has no address: {why}")]
    Unknown { host: String, why: String },
    /// One of its addresses is not to be talked to.
    #[error("no notice may go to {address}, which is what {host} stands for")]
    Forbidden { host: String, address: IpAddr },
}

/// Returns the addresses of a host, all of which may be connected to.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
    // IPv6 addresses stand in brackets in a URL.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let unknown = |why: String| Refused::Unknown { host: name.to_owned(), why };
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host((name, port)).await.map_err(|error| unknown(error.to_string()))?.collect();
    if let Some(address) = found.iter().find(|address| is_forbidden(address.ip())) {
        return Err(Refused::Forbidden { host: name.to_owned(), address: address.ip() });
    }
    if found.is_empty() {
        return Err(unknown("it resolves to nothing".to_owned()));
    }
    Ok(found.into_iter().take(ADDRESSES_MAX).collect())
}

/// Says whether nothing may be posted to an address.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast()
                || within(v6).is_some_and(|v4| is_forbidden(IpAddr::V4(v4)))
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, translated (NAT64) or tunnelled (6to4).
fn within(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] => Some(v4(g, h)),
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(v4(g, h)),
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}
