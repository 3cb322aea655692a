//! Which address a request comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies of our own, whose word on where a request comes from is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Addresses and networks, separated by commas; the error names the one that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{part} is no address or network, like 10.0.0.0/8"))
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address that counts: the last one on the way here that is none of these. What a client
    /// says of itself stands before that, and is never read.
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
            // One of the two came from the client, and there is no telling which.
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
            // Without a hop that can be read, it is the proxy that did not say.
            let Some(Some(before)) = hops.next() else { break };
            last = before;
        }
        last
    }
}

/// Whether a request says that it came through a proxy.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED)
}

/// What is counted as one: an address, of IPv6 the network of 64 bits that a subscriber has all of.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// `192.0.2.1`, `2001:db8::1`, and the same with a port.
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
    fn only_our_proxies_are_believed_and_only_the_last_stranger_counts() {
        let x = &X_FORWARDED_FOR;
        let f = &FORWARDED;
        for (peer, headers, expected) in [
            ("198.51.100.1", vec![], "198.51.100.1"),
            ("198.51.100.1", vec![(x, "203.0.113.9")], "198.51.100.1"),
            ("198.51.100.1", vec![(f, "for=203.0.113.9")], "198.51.100.1"),
            ("10.1.1.1", vec![], "10.1.1.1"),
            ("10.1.1.1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            ("::ffff:10.1.1.1", vec![(x, "203.0.113.9")], "203.0.113.9"),
            // What the client said of itself stands on the left.
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
            // Of two that differ, one is the client's own.
            ("10.1.1.1", vec![(x, "203.0.113.9"), (f, "for=203.0.113.9")], "203.0.113.9"),
            ("10.1.1.1", vec![(x, "203.0.113.9"), (f, "for=1.1.1.1")], "10.1.1.1"),
        ] {
            assert_eq!(client(peer, &headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn a_subscriber_with_many_addresses_counts_as_one() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("192.0.2.1"), "192.0.2.1");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert!(Proxies::parse("10.0.0.0/8, proxy.example").unwrap_err().contains("proxy.example"));
    }
}
