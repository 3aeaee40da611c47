use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Server;

/// How presets are asked, and by which program. A server written as a URL is asked by the transport of its scheme; the
/// programs take over the servers of theirs: curl those of DNS over HTTPS, kdig those of DNS over TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// DNS over TLS (RFC 7858).
    #[default]
    Dot,
    /// DNS over HTTPS (RFC 8484), over HTTP/2.
    Doh,
    /// DNS over QUIC (RFC 9250).
    Doq,
    /// DNS over HTTPS by the program `curl`.
    Curl,
    /// DNS over TLS by the program `kdig`.
    Kdig,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 5] = [Self::Dot, Self::Doh, Self::Doq, Self::Curl, Self::Kdig];

    /// The word a person writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::Doh => "doh",
            Self::Doq => "doq",
            Self::Curl => "curl",
            Self::Kdig => "kdig",
        }
    }

    /// The form of the URLs of servers that can be asked so.
    pub fn url(self) -> &'static str {
        match self {
            Self::Dot | Self::Kdig => "tls://ADDRESS#NAME",
            Self::Doh | Self::Curl => "https://ADDRESS/PATH#NAME",
            Self::Doq => "quic://ADDRESS#NAME",
        }
    }

    /// Whether a server can be asked so. A preset can wherever its operator offers the transport.
    pub fn suits(self, server: &Server) -> bool {
        match server {
            Server::Preset(preset) => !preset.servers(self).is_empty(),
            Server::Tls(_) => matches!(self, Self::Dot | Self::Kdig),
            Server::Https(_) => matches!(self, Self::Doh | Self::Curl),
            Server::Quic(_) => self == Self::Doq,
            Server::Plain(_) => false,
        }
    }

    /// Whether queries are asked by a program of its own rather than in the proxy.
    pub fn is_a_program(self) -> bool {
        matches!(self, Self::Curl | Self::Kdig)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_read_by_its_own_name() {
        for protocol in Protocol::ALL {
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
        }
    }

    #[test]
    fn a_server_is_asked_by_the_transport_of_its_scheme_and_by_the_program_that_knows_it() {
        for (server, suited) in [
            ("tls://192.0.2.1#a.example", &[Protocol::Dot, Protocol::Kdig][..]),
            ("https://192.0.2.1/dns-query#a.example", &[Protocol::Doh, Protocol::Curl]),
            ("quic://192.0.2.1#a.example", &[Protocol::Doq]),
            ("udp://192.0.2.1", &[]),
            ("quad9", &Protocol::ALL),
        ] {
            let parsed: Server = server.parse().unwrap();
            let suits: Vec<_> = Protocol::ALL.into_iter().filter(|protocol| protocol.suits(&parsed)).collect();
            assert_eq!(suits, suited, "{server}");
        }
    }
}
