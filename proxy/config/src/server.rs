use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ParseError;
use crate::text::written_as_text;

/// A server that answers queries: an address and, for encrypted transports, the name it must prove.
///
/// Never a host name to look up: that lookup would itself leave in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// A well-known public resolver, with all its addresses.
    Preset(Preset),
    /// `tls://ADDRESS[:PORT]#NAME`: DNS over TLS (RFC 7858).
    Tls(TlsServer),
    /// `udp://ADDRESS[:PORT]`: plain DNS over UDP, and TCP for what does not fit.
    Plain(SocketAddr),
}

/// A server reached over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsServer {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that its certificate must carry (RFC 8310, strict profile).
    pub name: ServerName,
}

/// The name in a server's certificate: a domain name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerName(String);

/// How presets are reached; a server written as a URL carries its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// DNS over TLS (RFC 7858).
    #[default]
    Dot,
}

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

const DOT_PORT: u16 = 853; // RFC 7858 §3.1
const DNS_PORT: u16 = 53;

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

    /// Its servers for DNS over TLS, IPv4 first: where there is no IPv6, those attempts fail at once.
    pub fn tls_servers(self) -> Vec<TlsServer> {
        let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        let v6 = |a, b, c, d, h| IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, h));
        let (name, addresses) = match self {
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
        };
        let server =
            |address| TlsServer { address: SocketAddr::new(address, DOT_PORT), name: ServerName(name.to_owned()) };
        addresses.map(server).into()
    }
}

impl ServerName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match rustls_pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(Self(text.to_ascii_lowercase())),
            Err(_) => Err(ParseError::new(format!(
                "{text:?} is no server name: write the domain name (or address) in the server's certificate, such as cloudflare-dns.com"
            ))),
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Server {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Preset::ALL.into_iter().find(|preset| preset.as_str() == text).map(Self::Preset).ok_or_else(|| {
                ParseError::new(format!(
                    "{text:?} is no server: write tls://ADDRESS[:PORT]#NAME, udp://ADDRESS[:PORT], or one of cloudflare, quad9, google"
                ))
            });
        };
        match scheme {
            "tls" => parse_tls(text, rest).map(Self::Tls),
            "udp" => parse_plain(text, rest).map(Self::Plain),
            "https" | "quic" => Err(ParseError::new(format!(
                "{text:?}: this version speaks DNS over TLS alone: write tls://ADDRESS[:PORT]#NAME"
            ))),
            _ => Err(ParseError::new(format!("{text:?}: no transport is called {scheme:?}: write tls:// or udp://"))),
        }
    }
}

fn parse_tls(text: &str, rest: &str) -> Result<TlsServer, ParseError> {
    let Some((address, name)) = rest.split_once('#') else {
        return Err(ParseError::new(format!(
            "{text:?} names no server to authenticate: add #NAME, the name in its certificate, such as tls://1.1.1.1:853#cloudflare-dns.com"
        )));
    };
    Ok(TlsServer { address: parse_address(text, address, DOT_PORT)?, name: name.parse()? })
}

fn parse_plain(text: &str, rest: &str) -> Result<SocketAddr, ParseError> {
    if rest.contains('#') {
        return Err(ParseError::new(format!(
            "{text:?}: plain DNS authenticates nobody: leave #NAME out, or write tls://"
        )));
    }
    parse_address(text, rest, DNS_PORT)
}

fn parse_address(text: &str, address: &str, default_port: u16) -> Result<SocketAddr, ParseError> {
    let parsed = address.parse::<SocketAddr>().ok().or_else(|| {
        let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port))
    });
    match parsed {
        Some(address) if address.port() != 0 => Ok(address),
        Some(_) => Err(ParseError::new(format!("{text:?}: no server listens on port 0"))),
        None => Err(ParseError::new(format!(
            "{text:?}: {address:?} is no IP address with an optional port (IPv6 in brackets); a host name cannot stand here, since looking it up would leave in the clear"
        ))),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(preset) => f.write_str(preset.as_str()),
            Self::Tls(server) => server.fmt(f),
            Self::Plain(address) => write!(f, "udp://{address}"),
        }
    }
}

impl fmt::Display for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls://{}#{}", self.address, self.name)
    }
}

written_as_text!(
    Server,
    "Server",
    "tls://ADDRESS[:PORT]#NAME, udp://ADDRESS[:PORT] (plain DNS, in routes only), or a preset: cloudflare, quad9, google.",
    "tls://1.1.1.1:853#cloudflare-dns.com"
);
written_as_text!(ServerName, "ServerName", "The name in a server's certificate.", "cloudflare-dns.com");

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Server>().unwrap_err().to_string()
    }

    #[test]
    fn servers_are_read_with_the_default_port_of_their_transport() {
        for (text, full) in [
            ("tls://192.0.2.53#dns.example", "tls://192.0.2.53:853#dns.example"),
            ("tls://192.0.2.53:8853#DNS.example", "tls://192.0.2.53:8853#dns.example"),
            ("tls://[2001:db8::1]#dns.example", "tls://[2001:db8::1]:853#dns.example"),
            ("tls://2001:db8::1#2001:db8::1", "tls://[2001:db8::1]:853#2001:db8::1"),
            ("udp://10.96.0.10", "udp://10.96.0.10:53"),
            ("quad9", "quad9"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn a_server_without_a_name_to_authenticate_is_refused() {
        assert!(refused("tls://1.1.1.1:853").contains("add #NAME"));
        assert!(refused("tls://1.1.1.1:853#").contains("no server name"));
        assert!(refused("tls://1.1.1.1:853#*.example").contains("no server name"));
    }

    #[test]
    fn a_host_name_in_place_of_the_address_is_refused_because_its_lookup_would_leak() {
        assert!(refused("tls://dns.example:853#dns.example").contains("in the clear"));
        assert!(refused("udp://kube-dns.kube-system").contains("in the clear"));
    }

    #[test]
    fn unknown_words_and_schemes_are_refused_with_what_can_be_written() {
        assert!(refused("cloudfare").contains("cloudflare, quad9, google"));
        assert!(refused("1.1.1.1").contains("tls://ADDRESS"));
        assert!(refused("https://1.1.1.1/dns-query#one.one.one.one").contains("DNS over TLS alone"));
        assert!(refused("tcp://1.1.1.1").contains("tls:// or udp://"));
        assert!(refused("udp://10.0.0.1#name").contains("authenticates nobody"));
        assert!(refused("udp://10.0.0.1:0").contains("port 0"));
    }

    #[test]
    fn every_preset_is_read_by_its_own_name_and_has_servers_of_both_families() {
        for preset in Preset::ALL {
            assert_eq!(preset.as_str().parse::<Server>().unwrap(), Server::Preset(preset));
            let servers = preset.tls_servers();
            assert!(servers.iter().any(|server| server.address.is_ipv4()));
            assert!(servers.iter().any(|server| server.address.is_ipv6()));
        }
    }
}
