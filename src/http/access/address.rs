//! The client address of a request.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Trusted proxies: their forwarding headers are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Parses addresses and networks separated by commas; the error names an invalid one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{part} is not an address or a network like 10.0.0.0/8"))
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client address: the last hop that is not a trusted proxy. Hops before it come from the
    /// client itself and are never read.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contain(peer) {
            return peer;
        }
        let before = |name: &HeaderName, hop: fn(&str) -> Option<IpAddr>| {
            headers.contains_key(name).then(|| self.follow(peer, headers, name, hop))
        };
        match (before(&X_FORWARDED_FOR, address), before(&FORWARDED, forwarded)) {
            (Some(one), Some(other)) if one == other => one,
            // One of the two headers came from the client, and it is unknown which.
            (Some(_), Some(_)) => peer,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => peer,
        }
    }

    fn follow(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &HeaderName,
        hop: fn(&str) -> Option<IpAddr>,
    ) -> IpAddr {
        let lines = headers.get_all(name).iter().rev();
        let lines = lines.map(|line: &HeaderValue| line.to_str().unwrap_or_default());
        let mut hops = lines.flat_map(|line| line.rsplit(',')).map(hop);
        let mut last = peer;
        while self.contain(last) {
            // A missing or unreadable hop: the proxy did not report its client.
            let Some(Some(before)) = hops.next() else { break };
            last = before;
        }
        last
    }
}

/// Whether a request has forwarding headers.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED)
}

/// The address under which limits count a client. For IPv6 the /64 network, because a subscriber
/// has all of its addresses.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Parses `192.0.2.1` or `2001:db8::1`, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|at| at.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

/// The `for` of one element (RFC 7239, 4).
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&HeaderName, &str)]) -> String {
        let proxies = Proxies::parse("10.0.0.0/8, 192.0.2.7, fd00::/8").unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        proxies.client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn last_untrusted_hop_is_the_client() {
        let x = &X_FORWARDED_FOR;
        let f = &FORWARDED;
        for (peer, headers, expected) in [
            ("198.51.100.1", vec![], "198.51.100.1"),
            ("198.51.100.1", vec![(x, "203.0.113.9")], "198.51.100.1"),
            ("198.51.100.1", vec![(f, "for=203.0.113.9")], "198.51.100.1"),
            ("10.1.1.1", vec![], "10.1.1.1"),
            ("10.1.1.1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            ("::ffff:10.1.1.1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            // Hops on the left come from the client.
            ("10.1.1.1", vec![(x, "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
            ("10.1.1.1", vec![(x, "1.1.1.1"), (x, "203.0.113.9")], "203.0.113.9"),
            ("10.1.1.1", vec![(x, "1.1.1.1, 203.0.113.9, 192.0.2.7, 10.2.2.2")], "203.0.113.9"),
            ("fd00::1", vec![(x, "2001:db8::1")], "2001:db8::1"),
            ("10.1.1.1", vec![(x, "[2001:db8::1]:443")], "2001:db8::1"),
            ("10.1.1.1", vec![(x, "203.0.113.9:443")], "203.0.113.9"),
            ("10.1.1.1", vec![(x, "1.1.1.1, unknown")], "10.1.1.1"),
            ("10.1.1.1", vec![(x, "1.1.1.1, unknown, 10.2.2.2")], "10.2.2.2"),
            ("10.1.1.1", vec![(x, "")], "10.1.1.1"),
            (
                "10.1.1.1",
                vec![(f, "for=1.1.1.1, For=\"[2001:db8::1]:4711\";proto=https")],
                "2001:db8::1",
            ),
            ("10.1.1.1", vec![(f, "for=1.1.1.1, proto=https;for=203.0.113.9")], "203.0.113.9"),
            ("10.1.1.1", vec![(f, "for=1.1.1.1, for=_hidden")], "10.1.1.1"),
            // If the two headers differ, one comes from the client.
            ("10.1.1.1", vec![(x, "203.0.113.9"), (f, "for=203.0.113.9")], "203.0.113.9"),
            ("10.1.1.1", vec![(x, "203.0.113.9"), (f, "for=1.1.1.1")], "10.1.1.1"),
        ] {
            assert_eq!(client(peer, &headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn ipv6_network_counts_as_one_client() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("192.0.2.1"), "192.0.2.1");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert!(Proxies::parse("10.0.0.0/8, proxy.example").unwrap_err().contains("proxy.example"));
    }
}
