use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::rules::{Rules, quoted, rule, words};
use crate::text::written_as_text;
use crate::{ParseError, Preset, UrlPath};

/// A server that answers queries: an address and, for encrypted transports, the name it must prove.
///
/// Never a host name to look up: that lookup would itself leave in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// A well-known public resolver, with all its addresses.
    Preset(Preset),
    /// `tls://ADDRESS[:PORT]#NAME`: DNS over TLS (RFC 7858).
    Tls(TlsServer),
    /// `https://ADDRESS[:PORT][/PATH]#NAME`: DNS over HTTPS (RFC 8484).
    Https(HttpsServer),
    /// `quic://ADDRESS[:PORT]#NAME`: DNS over QUIC (RFC 9250).
    Quic(TlsServer),
    /// `udp://ADDRESS[:PORT]`: plain DNS over UDP, and TCP for what does not fit.
    Plain(SocketAddr),
}

/// A server that proves by TLS who it is, whatever travels over it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsServer {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that its certificate must carry (RFC 8310, strict profile).
    pub name: ServerName,
}

/// A server of DNS over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpsServer {
    /// Where it is, and its name.
    pub server: TlsServer,
    /// Where it takes queries.
    pub path: UrlPath,
}

/// The name in a server's certificate: a domain name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerName(String);

const DOT_PORT: u16 = 853; // RFC 7858 §3.1
const DOQ_PORT: u16 = 853; // RFC 9250 §4.1.1
const HTTPS_PORT: u16 = 443;
const DNS_PORT: u16 = 53;

const IS_NO_SERVER: &str = "is no server: write tls://ADDRESS[:PORT]#NAME, https://ADDRESS[:PORT][/PATH]#NAME, quic://ADDRESS[:PORT]#NAME, udp://ADDRESS[:PORT], or one of cloudflare, quad9, google";
const KNOWN_SCHEMES: &str = "write tls://, https://, quic:// or udp://";
const NAMES_NO_SERVER: &str = "names no server to authenticate: add #NAME, the name in its certificate, such as ";
const IS_NO_SERVER_NAME: &str =
    "is no server name: write the domain name (or address) in the server's certificate, such as cloudflare-dns.com";
const AUTHENTICATES_NOBODY: &str =
    "plain DNS authenticates nobody: leave #NAME out, or write tls://, https:// or quic://";
const IS_NO_ADDRESS: &str = "is no IP address with an optional port (IPv6 in brackets); a host name cannot stand here, since looking it up would leave in the clear";
const TLS_EXAMPLE: &str = "tls://1.1.1.1:853#cloudflare-dns.com";
const HTTPS_EXAMPLE: &str = "https://1.1.1.1/dns-query#cloudflare-dns.com";
const QUIC_EXAMPLE: &str = "quic://9.9.9.9:853#dns.quad9.net";

impl ServerName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that is built in.
    pub(crate) fn known(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl FromStr for ServerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match rustls_pki_types::ServerName::try_from(text) {
            Ok(_) => Ok(Self(text.to_ascii_lowercase())),
            Err(_) => Err(ParseError::new(format!("{text:?} {IS_NO_SERVER_NAME}"))),
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
            let preset = Preset::ALL.into_iter().find(|preset| preset.as_str() == text);
            return preset.map(Self::Preset).ok_or_else(|| ParseError::new(format!("{text:?} {IS_NO_SERVER}")));
        };
        match scheme {
            "tls" => authenticated(text, rest, DOT_PORT, TLS_EXAMPLE).map(Self::Tls),
            "https" => parse_https(text, rest).map(Self::Https),
            "quic" => authenticated(text, rest, DOQ_PORT, QUIC_EXAMPLE).map(Self::Quic),
            "udp" => parse_plain(text, rest).map(Self::Plain),
            _ => Err(ParseError::new(format!("{text:?}: no transport is called {scheme:?}: {KNOWN_SCHEMES}"))),
        }
    }
}

pub(crate) fn authenticated(text: &str, rest: &str, default_port: u16, example: &str) -> Result<TlsServer, ParseError> {
    let Some((address, name)) = rest.split_once('#') else {
        return Err(ParseError::new(format!("{text:?} {NAMES_NO_SERVER}{example}")));
    };
    Ok(TlsServer { address: parse_address(text, address, default_port)?, name: name.parse()? })
}

fn parse_https(text: &str, rest: &str) -> Result<HttpsServer, ParseError> {
    let (url, name) = rest.split_once('#').map_or((rest, ""), |(url, name)| (url, name));
    let (address, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let path = if path.is_empty() { UrlPath::default() } else { path.parse()? };
    let named = if name.is_empty() { address.to_owned() } else { format!("{address}#{name}") };
    let server = authenticated(text, &named, HTTPS_PORT, HTTPS_EXAMPLE)?;
    Ok(HttpsServer { server, path })
}

fn parse_plain(text: &str, rest: &str) -> Result<SocketAddr, ParseError> {
    if rest.contains('#') {
        return Err(ParseError::new(format!("{text:?}: {AUTHENTICATES_NOBODY}")));
    }
    parse_address(text, rest, DNS_PORT)
}

pub(crate) fn parse_address(text: &str, address: &str, default_port: u16) -> Result<SocketAddr, ParseError> {
    let parsed = address.parse::<SocketAddr>().ok().or_else(|| {
        let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
        bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port))
    });
    match parsed {
        Some(address) if address.port() != 0 => Ok(address),
        Some(_) => Err(ParseError::new(format!("{text:?}: no server listens on port 0"))),
        None => Err(ParseError::new(format!("{text:?}: {address:?} {IS_NO_ADDRESS}"))),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(preset) => f.write_str(preset.as_str()),
            Self::Tls(server) => write!(f, "tls://{}#{}", server.address, server.name),
            Self::Https(HttpsServer { server, path }) => write!(f, "https://{}{path}#{}", server.address, server.name),
            Self::Quic(server) => write!(f, "quic://{}#{}", server.address, server.name),
            Self::Plain(address) => write!(f, "udp://{address}"),
        }
    }
}

/// What an API server can check of a server. The form of its path, and of the groups of an IPv6 address, only the parser knows.
fn rules() -> Rules {
    const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    const PORT: &str = "(:0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?";
    const V6: &str = "[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*";
    let v4 = format!(r"{OCTET}(\\.{OCTET}){{3}}");
    let address = format!(r"({v4}{PORT}|\\[{v4}\\]|\\[{V6}\\]{PORT}|{V6})");
    // Where the address stands: behind the scheme, as far as a name or, in HTTPS, a path.
    let of = "(self.startsWith('https://') ? self.split('://')[1].split('#')[0].split('/')[0] : self.split('://')[1].split('#')[0])";
    let scheme_is_known = "self.matches('^(tls|https|quic|udp)://')";
    let colon = words(": ");
    let told = |before: &[&str], text: &str| [before.join(" + "), words(text)].join(" + ");
    let example = format!(
        "(self.startsWith('tls') ? {} : self.startsWith('https') ? {} : {})",
        words(TLS_EXAMPLE),
        words(HTTPS_EXAMPLE),
        words(QUIC_EXAMPLE)
    );
    let presets = Preset::ALL.map(|preset| format!("'{}'", preset.as_str())).join(", ");
    let written = quoted("self");
    Rules {
        longest: 384, // a name of 253, and a path such as people write
        rules: vec![
            rule(
                &format!("self.contains('://') || self in [{presets}]"),
                &[&told(&[&written], &format!(" {IS_NO_SERVER}"))],
            ),
            rule(
                &format!("!self.contains('://') || {scheme_is_known}"),
                &[
                    &written,
                    &words(": no transport is called "),
                    &quoted("self.split('://')[0]"),
                    &words(&format!(": {KNOWN_SCHEMES}")),
                ],
            ),
            rule(
                "!self.matches('^(tls|https|quic)://[^#]*$')",
                &[&told(&[&written], &format!(" {NAMES_NO_SERVER}")), &example],
            ),
            rule("!self.matches('^udp://.*#')", &[&told(&[&written], &format!(": {AUTHENTICATES_NOBODY}"))]),
            rule(
                &format!("!{scheme_is_known} || {of}.matches('^{address}$')"),
                &[&told(&[&written, &colon, &quoted(of)], &format!(" {IS_NO_ADDRESS}"))],
            ),
            rule(
                "!self.matches('^(tls|https|quic)://[^#]*#') || self.matches('^[^#]*#[0-9A-Za-z_.:-]+$')",
                &[&told(&[&quoted("self.split('#', 2)[1]")], &format!(" {IS_NO_SERVER_NAME}"))],
            ),
        ],
    }
}

written_as_text!(
    Server,
    "Server",
    "tls://ADDRESS[:PORT]#NAME, https://ADDRESS[:PORT][/PATH]#NAME, quic://ADDRESS[:PORT]#NAME, udp://ADDRESS[:PORT] (plain DNS, in routes only), or a preset: cloudflare, quad9, google.",
    "tls://1.1.1.1:853#cloudflare-dns.com",
    rules()
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
            ("https://192.0.2.53#dns.example", "https://192.0.2.53:443/dns-query#dns.example"),
            ("https://192.0.2.53:8443/q/x#dns.example", "https://192.0.2.53:8443/q/x#dns.example"),
            ("https://[2001:db8::1]/#dns.example", "https://[2001:db8::1]:443/#dns.example"),
            ("quic://192.0.2.53#dns.example", "quic://192.0.2.53:853#dns.example"),
            ("quic://[2001:db8::1]:8853#dns.example", "quic://[2001:db8::1]:8853#dns.example"),
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
        assert!(refused("https://1.1.1.1/dns-query").contains("such as https://"));
        assert!(refused("https://1.1.1.1#").contains("add #NAME"));
        assert!(refused("quic://1.1.1.1").contains("such as quic://"));
    }

    #[test]
    fn a_host_name_in_place_of_the_address_is_refused_because_its_lookup_would_leak() {
        assert!(refused("tls://dns.example:853#dns.example").contains("in the clear"));
        assert!(refused("https://dns.example/dns-query#dns.example").contains("in the clear"));
        assert!(refused("quic://dns.example#dns.example").contains("in the clear"));
        assert!(refused("udp://kube-dns.kube-system").contains("in the clear"));
    }

    #[test]
    fn unknown_words_and_schemes_are_refused_with_what_can_be_written() {
        assert!(refused("cloudfare").contains("cloudflare, quad9, google"));
        assert!(refused("1.1.1.1").contains("tls://ADDRESS"));
        assert!(refused("https://1.1.1.1/dns-query{?dns}#one.one.one.one").contains("leave out"));
        assert!(refused("tcp://1.1.1.1").contains("tls://, https://, quic:// or udp://"));
        assert!(refused("udp://10.0.0.1#name").contains("authenticates nobody"));
        assert!(refused("udp://10.0.0.1:0").contains("port 0"));
    }
}
