//! From servers as written to transports: presets become their servers, and each gets what asks it.

use std::time::Duration;

use dot_proxy_config::{HttpMethod, Protocol, Server};

use crate::upstream::command::Tool;
use crate::upstream::connect::Tls;
use crate::upstream::doh::Doh;
use crate::upstream::doq::Doq;
use crate::upstream::dot::{Dot, OverTls};
use crate::upstream::plain::Plain;
use crate::upstream::server::Transport;

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
}

impl Common {
    /// The URL and the transport of each server.
    pub(super) fn transports(&self, written: &[Server]) -> Vec<(String, Transport)> {
        let mut transports = Vec::new();
        written.iter().for_each(|server| self.add(server, &mut transports));
        transports
    }

    fn add(&self, server: &Server, transports: &mut Vec<(String, Transport)>) {
        let transport = match server {
            Server::Preset(preset) => {
                return preset.servers(self.protocol).iter().for_each(|server| self.add(server, transports));
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
        transports.push((server.to_string(), transport));
    }
}
