//! Who a client is, as far as an address tells.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A client: what is counted and restrained as one. In a pod every process has the address 127.0.0.1, so what comes from
/// loopback is told apart by the port that a datagram was sent from; connections are each judged by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Loopback: the port of a datagram, or 0 for connections, all together.
    Loopback(u16),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: whoever has one has the whole /64 (RFC 6177).
    V6(u64),
}

impl Who {
    /// The client on a connection.
    pub fn connected(address: IpAddr) -> Self {
        Self::at(address, 0)
    }

    /// The client that sent a datagram.
    pub fn sending(address: SocketAddr) -> Self {
        Self::at(address.ip(), address.port())
    }

    /// The client at an address, loopback or not.
    pub fn of_network(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(u64::try_from(address.to_bits() >> 64).expect("64 bits are left")),
        }
    }

    /// An IPv4-mapped IPv6 address counts as the IPv4 address it maps.
    fn at(address: IpAddr, port: u16) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback(port),
            address => Self::of_network(address),
        }
    }

    /// Its address; of IPv6 the first of its /64.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Loopback(_) => Ipv4Addr::LOCALHOST.into(),
            Self::V4(address) => address.into(),
            Self::V6(prefix) => Ipv6Addr::from_bits(u128::from(prefix) << 64).into(),
        }
    }

    /// Whether it is of this machine, or pod.
    pub fn is_loopback(self) -> bool {
        matches!(self, Self::Loopback(_))
    }
}

/// As people write it: an address, a /64, `loopback port N`, or `loopback connections`.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(0) => f.write_str("loopback connections"),
            Self::Loopback(port) => write!(f, "loopback port {port}"),
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(_) => write!(f, "{}/64", self.address()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_a_64_bit_prefix_or_a_port_of_loopback() {
        for (address, connected, sending) in [
            ("192.0.2.1:5", "192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1", "192.0.2.1"),
            ("[2001:db8:1:2:3::4]:5", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
            ("127.9.9.9:5", "loopback connections", "loopback port 5"),
            ("[::1]:5", "loopback connections", "loopback port 5"),
            ("[::ffff:127.0.0.1]:5", "loopback connections", "loopback port 5"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(Who::connected(address.ip()).to_string(), connected);
            assert_eq!(Who::sending(address).to_string(), sending);
        }
    }
}
