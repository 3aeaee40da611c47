//! A stub and an upstream: what is compared.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use dot_proxy::cli::Stub;
use dot_proxy::config::Resolved;
use dot_proxy::upstream::server::{self, Metrics};
use dot_proxy_config::{CaCertificates, Config, ConfigError, Server, Upstream};
use serde::Serialize;

/// A stub and one server of an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Combination {
    /// How it is asked.
    pub stub: Stub,
    /// As it was written: a preset or a URL.
    pub upstream: Server,
    /// The server: of a preset the first of its addresses to which there is a way.
    pub server: Server,
    ca: Option<CaCertificates>,
}

/// A combination that is not measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The stub.
    pub stub: &'static str,
    /// The upstream as it was written.
    pub upstream: String,
    /// Why, for a person.
    pub reason: String,
}

impl Combination {
    /// This stub and this upstream, whose certificates must chain to these CAs or, without any, to the public roots. `None`
    /// where the upstream cannot be asked so.
    pub fn new(stub: Stub, upstream: &Server, ca: Option<&CaCertificates>) -> Option<Self> {
        let protocol = stub.protocol();
        let servers = match upstream {
            Server::Preset(preset) => preset.servers(protocol),
            url if protocol.suits(url) => vec![url.clone()],
            _ => return None,
        };
        let has_way = |server: &&Server| address(server).is_some_and(is_routable);
        let server = servers.iter().find(has_way).or(servers.first())?.clone();
        Some(Self { stub, upstream: upstream.clone(), server, ca: ca.cloned() })
    }

    /// The server as the proxy would ask it, not yet connected to and with nothing remembered of earlier connections.
    pub fn fresh(&self) -> Result<Arc<server::Server>, ConfigError> {
        let upstream = Upstream {
            protocol: self.stub.protocol(),
            servers: vec![self.server.clone()],
            ca: self.ca.clone(),
            ..Upstream::default()
        };
        let resolved = Resolved::from_written(&Config { upstream, ..Config::default() })?;
        let server =
            resolved.groups.into_iter().flat_map(|group| group.servers).next().expect("one server was written");
        Ok(Arc::new(server::Server::new(&Arc::from("profile"), server, &Metrics::default())))
    }

    /// The same by way of another address, where something passes on to the server what it gets.
    pub(crate) fn by_way_of(&self, address: SocketAddr) -> Self {
        let mut other = self.clone();
        match &mut other.server {
            Server::Tls(server) | Server::Quic(server) => server.address = address,
            Server::Https(server) => server.server.address = address,
            Server::Preset(_) | Server::Plain(_) => {}
        }
        other
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        address(&self.server)
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stub.as_str(), written(&self.upstream))
    }
}

/// A server as a person wrote it.
pub(crate) fn written(server: &Server) -> String {
    match server {
        Server::Preset(preset) => preset.as_str().to_owned(),
        url => url.to_string(),
    }
}

fn address(server: &Server) -> Option<SocketAddr> {
    match server {
        Server::Tls(server) | Server::Quic(server) => Some(server.address),
        Server::Https(server) => Some(server.server.address),
        Server::Plain(address) => Some(*address),
        Server::Preset(_) => None,
    }
}

/// Whether there is a way to an address, as the routing table tells without a packet being sent.
fn is_routable(server: SocketAddr) -> bool {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(server).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_asked_at_one_of_its_addresses_by_the_transport_of_the_stub() {
        let of = |stub| Combination::new(stub, &"quad9".parse().unwrap(), None).unwrap();
        for (stub, scheme) in [(Stub::Ssock, "tls://"), (Stub::Doh, "https://"), (Stub::Doq, "quic://")] {
            let combination = of(stub);
            assert!(combination.server.to_string().starts_with(scheme), "{}", combination.server);
            assert_eq!(combination.to_string(), format!("{} quad9", stub.as_str()));
            assert_eq!(&*combination.fresh().unwrap().url, combination.server.to_string());
        }
    }

    #[test]
    fn what_an_operator_does_not_offer_and_what_a_url_contradicts_is_no_combination() {
        for (stub, upstream) in [(Stub::Doq, "cloudflare"), (Stub::Doh, "tls://192.0.2.1#a.example")] {
            assert_eq!(Combination::new(stub, &upstream.parse().unwrap(), None), None);
        }
    }

    #[test]
    fn by_way_of_another_address_the_name_stays() {
        let combination =
            Combination::new(Stub::Curl, &"https://192.0.2.1/q#a.example".parse().unwrap(), None).unwrap();
        let other = combination.by_way_of("127.0.0.1:99".parse().unwrap());
        assert_eq!(other.server.to_string(), "https://127.0.0.1:99/q#a.example");
    }
}
