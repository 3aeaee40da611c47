//! From servers as written to transports: presets become their servers, and each gets what asks it.

use std::time::Duration;

use dot_proxy_config::{ConfigError, HttpMethod, Protocol, Server};

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
    /// How presets are asked, or the program that asks.
    pub(super) protocol: Protocol,
    /// How servers of DNS over HTTPS are asked.
    pub(super) method: HttpMethod,
    /// When a connection that is not used is closed.
    pub(super) idle: Duration,
}

impl Common {
    /// The URL and the transport of each server; `path` is the servers' field.
    pub(super) fn transports(&self, written: &[Server], path: &str) -> Result<Vec<(String, Transport)>, ConfigError> {
        let mut transports = Vec::new();
        for (index, server) in written.iter().enumerate() {
            let refused = |message| ConfigError { path: format!("{path}[{index}]"), message };
            self.add(server, &mut transports).map_err(refused)?;
        }
        Ok(transports)
    }

    fn add(&self, server: &Server, transports: &mut Vec<(String, Transport)>) -> Result<(), String> {
        let transport = match server {
            Server::Preset(preset) => {
                return preset.servers(self.protocol).iter().try_for_each(|server| self.add(server, transports));
            }
            _ if self.protocol.is_a_program() && self.protocol.suits(server) => {
                return Err(not_yet(server, self.protocol));
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
        Ok(())
    }
}

fn not_yet(server: &Server, protocol: Protocol) -> String {
    format!("{server} cannot be asked by the program {protocol} in this version: write dot, doh or doq")
}
