//! Rules for hosts that may be contacted without TLS.
//!
//! A host is classified by its text, never by the address to which a name resolves: an attacker may
//! control the name's resolution.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Uri;

/// Use of TLS for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// TLS for hosts that are not private by [`is_private`].
    Auto,
    /// Always TLS.
    On,
    /// Never TLS.
    Off,
}

/// True for `localhost` and loopback addresses.
pub fn is_this_machine(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|ip| ip.is_loopback())
}

/// True for a host on this machine or on a network that is not routed on the internet: loopback, RFC
/// 1918, RFC 6598 (100.64.0.0/10), unique local, link-local, or a name without dots, which only a local
/// network resolves.
pub fn is_private(host: &str) -> bool {
    match address(host) {
        Some(IpAddr::V4(ip)) => is_private_v4(ip),
        Some(IpAddr::V6(ip)) => is_private_v6(ip),
        None => is_single_label(host),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0b1100_0000 == 64;
    ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified() || is_shared
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let is_local = ip.is_unique_local() || ip.is_unicast_link_local();
    ip.is_loopback() || ip.is_unspecified() || is_local
}

/// True for a name without dots. Resolvers read `2130706433` and `0x7f000001` as addresses, so they do
/// not count.
fn is_single_label(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_number = host.starts_with("0x")
        || host.starts_with("0X")
        || host.chars().all(|c| c.is_ascii_digit());
    !host.is_empty() && host.chars().all(fits) && !is_number
}

/// Parses a URL for confidential data: `https`, or `http` to this machine only, without a user and
/// password. The error completes "must be ..." and does not quote the text; `example` is shown in it.
pub fn confidential_url(text: &str, example: &str) -> Result<Uri, String> {
    let Ok(url) = text.parse::<Uri>() else { return Err(format!("a URL like {example}")) };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(format!("a whole URL, like {example}"));
    };
    if authority.as_str().contains('@') {
        return Err("without a user and password".to_owned());
    }
    match scheme {
        "https" => Ok(url),
        "http" if is_this_machine(authority.host()) => Ok(url),
        "http" => {
            Err("https:// (http:// is allowed for this machine only, as 127.0.0.1)".to_owned())
        }
        _ => Err("https://".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_public_hosts_are_distinguished() {
        for host in [
            "localhost",
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "::1",
            "[::1]",
            "fd00::1",
            "[fe80::1]",
            "::ffff:10.0.0.1",
            "redis",
            "valkey-1",
            "redis_2",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in [
            "",
            "redis.example",
            "cache.amazonaws.com",
            "localhost.example",
            "redis.",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "11.0.0.1",
            "2001:db8::1",
            "[2606:4700::1111]",
            "::ffff:8.8.8.8",
            "134744072",
            "0x08080808",
            "127.1",
            "010.0.0.1",
            "10.0.0.1.example",
            "r\u{e9}dis",
            "re%64is",
        ] {
            assert!(!is_private(host), "{host}");
        }
        assert!(is_this_machine("[::1]") && is_this_machine("127.0.0.2"));
        assert!(!is_this_machine("10.0.0.1") && !is_this_machine("redis"));
    }

    #[test]
    fn confidential_url_is_https_or_local() {
        let read = |text| confidential_url(text, "https://shop.example/");
        for good in [
            "https://shop.example/a?b",
            "http://127.0.0.1:9/",
            "http://localhost/",
            "http://[::1]/",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "shop.example/hooks",
            "/hooks",
            "http://shop.example/",
            "http://127.0.0.1.shop.example/",
            "http://10.0.0.1/",
            "http://redis/",
            "ftp://shop.example/",
            "HTTP://shop.example/",
            "https://ann:sesame@shop.example/",
        ] {
            assert!(!read(bad).unwrap_err().contains("sesame"), "{bad}");
        }
    }
}
