//! From servers as written to transports: presets become their servers, and each gets what asks it.

use std::time::Duration;

use dot_proxy_config::{HttpMethod, Protocol, Server};

use crate::upstream::command::Tool;
use crate::upstream::connect::Tls;
use crate::upstream::doh::Doh;
use crate::upstream::doq::Doq;
use crate::upstream::dot::{Dot, OverTls};
use crate::upstream::plain::Plain;
use crate::upstream::server::{Configured, Definition, Transport};

/// What the servers of a group have in common.
pub(super) struct Common {
    /// How they prove who they are.
    pub(super) tls: Tls,
    /// How presets are asked.
    pub(super) protocol: Protocol,
    /// How servers of DNS over HTTPS are asked.
    pub(super) method: HttpMethod,
    /// The program that asks the servers which it knows, if the protocol is one.
    pub(super) tool: Option<Tool>,
    /// When a connection that is not used is closed.
    pub(super) idle: Duration,
    /// Whom to trust, and how to prove who we are.
    pub(super) trust: Definition,
}

impl Common {
    /// Each server as it is configured; one that is written twice, once.
    pub(super) fn servers(&self, written: &[Server]) -> Vec<Configured> {
        let mut servers = Vec::new();
        written.iter().for_each(|server| self.add(server, &mut servers));
        servers
    }

    fn add(&self, server: &Server, servers: &mut Vec<Configured>) {
        let transport = match server {
            Server::Preset(preset) => {
                return preset.servers(self.protocol).iter().for_each(|server| self.add(server, servers));
            }
            _ if let Some(command) = self.tool.as_ref().and_then(|tool| tool.asking(server, self.method)) => {
                Transport::Command(command)
            }
            Server::Tls(server) => {
                let connect = OverTls { tls: self.tls.clone(), server: server.clone() };
                Transport::Dot(Dot::new(connect, self.idle))
            }
            Server::Https(server) => Transport::Doh(Doh::new(&self.tls, server, self.method, self.idle)),
            Server::Quic(server) => Transport::Doq(Doq::new(&self.tls, server, self.idle)),
            Server::Plain(address) => Transport::Plain(Plain::new(*address)),
        };
        let url = server.to_string();
        let definition = self.definition(&url, &transport);
        if !servers.iter().any(|other| other.definition == definition) {
            servers.push(Configured { url, transport, definition });
        }
    }

    /// All that decides how a server is asked. To how one is asked in clear, nothing else matters.
    fn definition(&self, url: &str, transport: &Transport) -> Definition {
        let by_program = matches!(transport, Transport::Command(_));
        let (trust, idle) = (self.trust.as_bytes(), self.idle.as_secs().to_be_bytes());
        let secured = [trust, &idle, &[u8::from(self.method == HttpMethod::Get)], &[u8::from(by_program)]];
        match transport {
            Transport::Plain(_) => Definition::of(&[url.as_bytes()]),
            _ => Definition::of(&[&[url.as_bytes()], &secured[..]].concat()),
        }
    }
}
