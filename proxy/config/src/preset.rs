use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{HttpsServer, Protocol, Server, ServerName, TlsServer, UrlPath};

/// A public resolver whose addresses and name are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Cloudflare, 1.1.1.1.
    Cloudflare,
    /// Quad9, 9.9.9.9: filters malicious names, validates DNSSEC.
    Quad9,
    /// Google Public DNS, 8.8.8.8.
    Google,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Cloudflare, Self::Quad9, Self::Google];

    /// The word a person writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::Quad9 => "quad9",
            Self::Google => "google",
        }
    }

    /// Its servers, IPv4 first: where there is no IPv6, those attempts fail at once. None where its operator does not
    /// offer the transport.
    pub fn servers(self, protocol: Protocol) -> Vec<Server> {
        let port = match protocol {
            Protocol::Dot | Protocol::Kdig | Protocol::Doq => 853, // RFC 7858 §3.1, RFC 9250 §4.1.1
            Protocol::Doh | Protocol::Curl => 443,
        };
        let (name, addresses) = self.name_and_addresses();
        let server = |address| {
            let server = TlsServer { address: SocketAddr::new(address, port), name: ServerName::known(name) };
            match protocol {
                Protocol::Dot | Protocol::Kdig => Some(Server::Tls(server)),
                Protocol::Doh | Protocol::Curl => Some(Server::Https(HttpsServer { server, path: UrlPath::default() })),
                // Of the three, Quad9 alone documents a public service of it.
                Protocol::Doq => (self == Self::Quad9).then_some(Server::Quic(server)),
            }
        };
        addresses.into_iter().filter_map(server).collect()
    }

    fn name_and_addresses(self) -> (&'static str, [IpAddr; 4]) {
        let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        let v6 = |a, b, c, d, h| IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, h));
        match self {
            Self::Cloudflare => (
                "cloudflare-dns.com",
                [
                    v4(1, 1, 1, 1),
                    v4(1, 0, 0, 1),
                    v6(0x2606, 0x4700, 0x4700, 0, 0x1111),
                    v6(0x2606, 0x4700, 0x4700, 0, 0x1001),
                ],
            ),
            Self::Quad9 => (
                "dns.quad9.net",
                [v4(9, 9, 9, 9), v4(149, 112, 112, 112), v6(0x2620, 0xfe, 0, 0, 0xfe), v6(0x2620, 0xfe, 0, 0, 9)],
            ),
            Self::Google => (
                "dns.google",
                [
                    v4(8, 8, 8, 8),
                    v4(8, 8, 4, 4),
                    v6(0x2001, 0x4860, 0x4860, 0, 0x8888),
                    v6(0x2001, 0x4860, 0x4860, 0, 0x8844),
                ],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_read_by_its_own_name_and_has_servers_of_both_families() {
        for preset in Preset::ALL {
            assert_eq!(preset.as_str().parse::<Server>().unwrap(), Server::Preset(preset));
            for protocol in [Protocol::Dot, Protocol::Doh, Protocol::Curl, Protocol::Kdig] {
                let servers: Vec<_> = preset.servers(protocol).iter().map(ToString::to_string).collect();
                assert!(servers.iter().any(|server| server.contains('[')), "{servers:?}");
                assert!(servers.iter().any(|server| !server.contains('[')), "{servers:?}");
            }
        }
    }

    #[test]
    fn the_servers_of_a_preset_are_those_of_the_protocol() {
        for (protocol, url) in [
            (Protocol::Dot, "tls://9.9.9.9:853#dns.quad9.net"),
            (Protocol::Kdig, "tls://9.9.9.9:853#dns.quad9.net"),
            (Protocol::Doh, "https://9.9.9.9:443/dns-query#dns.quad9.net"),
            (Protocol::Curl, "https://9.9.9.9:443/dns-query#dns.quad9.net"),
            (Protocol::Doq, "quic://9.9.9.9:853#dns.quad9.net"),
        ] {
            assert_eq!(Preset::Quad9.servers(protocol)[0].to_string(), url);
        }
    }

    #[test]
    fn who_does_not_offer_a_transport_has_no_servers_for_it() {
        assert_eq!(Preset::Cloudflare.servers(Protocol::Doq), []);
        assert_eq!(Preset::Google.servers(Protocol::Doq), []);
    }
}
