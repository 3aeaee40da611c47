//! Who may ask: loopback, private ranges, and what the configuration allows.
//!
//! A forwarder that answers the whole Internet is a weapon for reflection; nobody should become one by accident.

use std::net::IpAddr;

use dot_proxy_config::Network;

/// Loopback (RFC 1122, 4291), private (RFC 1918, 4193) and link-local (RFC 3927, 4291) ranges.
const PRIVATE: [&str; 8] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// The sources that are served.
#[derive(Debug, Clone)]
pub struct Access {
    networks: Vec<Network>,
}

impl Access {
    /// Loopback and private ranges, and these.
    pub fn private_and(allowed: &[Network]) -> Self {
        let private = PRIVATE.iter().map(|text| text.parse().expect("the ranges above are well formed"));
        Self { networks: private.chain(allowed.iter().copied()).collect() }
    }

    /// Whether a source is served.
    pub fn admits(&self, source: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_private_sources_are_served_and_no_others() {
        let access = Access::private_and(&[]);
        for source in
            ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"]
        {
            assert!(access.admits(source.parse().unwrap()), "{source}");
        }
        for source in ["192.0.2.1", "172.32.0.1", "100.64.0.1", "2001:db8::1", "::ffff:192.0.2.1", "0.0.0.0"] {
            assert!(!access.admits(source.parse().unwrap()), "{source}");
        }
    }

    #[test]
    fn an_allowed_range_is_served_too() {
        let access = Access::private_and(&["192.0.2.0/24".parse().unwrap()]);
        assert!(access.admits("192.0.2.1".parse().unwrap()));
        assert!(!access.admits("198.51.100.1".parse().unwrap()));
    }
}
