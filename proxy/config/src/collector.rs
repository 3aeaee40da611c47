use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::server::{authenticated, parse_address};
use crate::text::written_as_text;
use crate::{ParseError, TlsServer};

/// A collector of events that speaks syslog (RFC 5424) over TLS or TCP: an address and, for TLS, the name it must prove.
///
/// Never a host name to look up: that lookup would itself leave in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Collector {
    /// `tls://ADDRESS[:PORT]#NAME`: over TLS (RFC 5425).
    Tls(TlsServer),
    /// `tcp://ADDRESS[:PORT]`: over TCP with octet counting (RFC 6587), in the clear.
    Tcp(SocketAddr),
}

const TLS_PORT: u16 = 6514; // RFC 5425 §4.1
const TCP_PORT: u16 = 601; // registered as syslog-conn

impl Collector {
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tls(server) => server.address,
            Self::Tcp(address) => *address,
        }
    }

    /// Whether what is sent to it can be read on the way.
    pub fn is_in_the_clear(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().to_canonical().is_loopback())
    }
}

impl FromStr for Collector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let usage = || {
            ParseError::new(format!(
                "{text:?} is no collector of syslog: write tls://ADDRESS[:PORT]#NAME, or tcp://ADDRESS[:PORT] for one in the clear"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(usage)?;
        match scheme {
            "tls" => authenticated(text, rest, TLS_PORT, "tls://192.0.2.5:6514#siem.example").map(Self::Tls),
            "tcp" if rest.contains('#') => Err(ParseError::new(format!(
                "{text:?}: syslog over TCP authenticates nobody: leave #NAME out, or write tls://"
            ))),
            "tcp" => parse_address(text, rest, TCP_PORT).map(Self::Tcp),
            _ => Err(usage()),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(TlsServer { address, name }) => write!(f, "tls://{address}#{name}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

written_as_text!(
    Collector,
    "Collector",
    "A collector of syslog: tls://ADDRESS[:PORT]#NAME (RFC 5425), or tcp://ADDRESS[:PORT] (in the clear).",
    "tls://192.0.2.5:6514#siem.example"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_read_with_the_default_port_of_their_transport() {
        for (text, full) in [
            ("tls://192.0.2.5#SIEM.example", "tls://192.0.2.5:6514#siem.example"),
            ("tls://[2001:db8::1]:6515#2001:db8::1", "tls://[2001:db8::1]:6515#2001:db8::1"),
            ("tcp://192.0.2.5", "tcp://192.0.2.5:601"),
            ("tcp://127.0.0.1:514", "tcp://127.0.0.1:514"),
        ] {
            assert_eq!(text.parse::<Collector>().unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_would_look_a_name_up_or_trust_nobody_in_particular_is_refused_with_the_remedy() {
        for (text, remedy) in [
            ("tls://192.0.2.5:6514", "add #NAME"),
            ("tls://siem.example#siem.example", "in the clear"),
            ("tcp://192.0.2.5#siem.example", "leave #NAME out"),
            ("udp://192.0.2.5", "tls://ADDRESS[:PORT]#NAME"),
            ("192.0.2.5", "tls://ADDRESS[:PORT]#NAME"),
        ] {
            let error = text.parse::<Collector>().unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn plain_tcp_is_readable_on_the_way_unless_it_stays_on_this_machine() {
        let in_the_clear = |text: &str| text.parse::<Collector>().unwrap().is_in_the_clear();
        assert!(in_the_clear("tcp://192.0.2.5"));
        assert!(!in_the_clear("tcp://127.0.0.1") && !in_the_clear("tcp://[::1]") && !in_the_clear("tls://192.0.2.5#a"));
    }
}
