//! Who may ask: loopback, private ranges, and what the configuration allows.
//!
//! A forwarder that answers the whole Internet is a weapon for reflection; nobody should become one by accident.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use dot_proxy_config::Network;

/// The sources that are served.
#[derive(Debug, Clone)]
pub struct Access {
    /// Beside private ones; may change while queries come.
    allowed: Arc<RwLock<Vec<Network>>>,
    judges_loopback: bool,
}

impl Access {
    /// Loopback and private ranges, and these.
    pub fn private_and(allowed: &[Network]) -> Self {
        Self { allowed: Arc::new(RwLock::new(allowed.to_vec())), judges_loopback: false }
    }

    /// The same, with loopback treated as any other network: limited, and shut out. For tests, which have no other.
    pub fn judging_loopback(self) -> Self {
        Self { judges_loopback: true, ..self }
    }

    /// Loopback and private ranges, and these, from now on.
    pub fn admit_only(&self, allowed: &[Network]) {
        *self.allowed.write().unwrap_or_else(PoisonError::into_inner) = allowed.to_vec();
    }

    /// No others than are admitted already and are among these, from now on.
    pub fn admit_no_longer(&self, others_than: &[Network]) {
        let mut allowed = self.allowed.write().unwrap_or_else(PoisonError::into_inner);
        allowed.retain(|network| others_than.contains(network));
    }

    /// Whether a source is exempt from limits and never shut out.
    pub fn exempts(&self, source: IpAddr) -> bool {
        !self.judges_loopback && source.to_canonical().is_loopback()
    }

    /// The same but for IPv4-mapped addresses, of which it says no: what is asked for each query.
    #[inline]
    pub fn exempts_at_a_glance(&self, source: IpAddr) -> bool {
        source.is_loopback() && !self.judges_loopback
    }

    /// Whether a source is served. An IPv4-mapped IPv6 address counts as the IPv4 address it maps.
    pub fn admits(&self, source: IpAddr) -> bool {
        is_private(source.to_canonical()) || self.allows(source)
    }
}

impl Access {
    fn allows(&self, source: IpAddr) -> bool {
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        allowed.iter().any(|network| network.contains(source))
    }
}

/// Loopback (RFC 1122, 4291), private (RFC 1918, 4193) and link-local (RFC 3927, 4291) addresses. Asked for each query:
/// a few comparisons.
fn is_private(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_private_sources_are_served_and_no_others() {
        let access = Access::private_and(&[]);
        for source in [
            "127.0.0.1",
            "127.255.0.1",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.0.1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(access.admits(source.parse().unwrap()), "{source}");
        }
        for source in [
            "192.0.2.1",
            "172.15.0.1",
            "172.32.0.1",
            "169.253.0.1",
            "192.169.0.1",
            "100.64.0.1",
            "2001:db8::1",
            "::ffff:192.0.2.1",
            "0.0.0.0",
        ] {
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
