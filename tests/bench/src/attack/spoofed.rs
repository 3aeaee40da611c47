//! Queries from addresses that did not send them. It takes a network where such addresses are known to lead nowhere, which the
//! run makes (`run/attacks/network.rs`): no packet leaves it.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Bounds, Random, Report};
use crate::failure::{During, Failure, Outcome};
use crate::system::{Datagrams, network};
use crate::zone::Names;

/// How many packets one system call sends.
const BATCH: usize = 64;
/// Octets of an IPv4 and a UDP header.
const HEADERS: usize = 28;

/// In whose name is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sources {
    /// All of 10.1.0.0 to 10.255.255.255.
    Anyone,
    /// 10.9.9.0/24.
    OneNetwork,
}

pub(super) fn attack(server: SocketAddrV4, sources: Sources, bounds: Bounds) -> Outcome<Report> {
    if !server.ip().is_private() {
        return Err(Failure::new("forged packets are sent to private addresses alone"));
    }
    let socket = network::packets_to(*server.ip()).during("opening a socket for whole packets")?;
    let (mut report, mut datagrams, mut random) = (Report::default(), Datagrams::connected(BATCH), Random::new());
    let names = Names::Lasting { first: 0, count: 100 };
    let mut packet = Vec::new();
    while !bounds.over(&report) {
        bounds.pace(&report);
        for index in 0..BATCH {
            let chosen = random.next();
            packet.clear();
            packet.resize(HEADERS, 0);
            names.query(chosen >> 48, 0x5b0f, &mut packet);
            headers(&mut packet, sources.choose(chosen), (chosen >> 32).to_le_bytes()[0], server);
            datagrams.put(index, &packet);
            report.octets += (packet.len() - HEADERS) as u64;
        }
        datagrams.send(&socket, BATCH).during("sending forged packets")?;
        report.sent += BATCH as u64;
    }
    Ok(report)
}

impl Sources {
    fn choose(self, random: u64) -> Ipv4Addr {
        let [a, b, c, ..] = random.to_le_bytes();
        match self {
            Self::Anyone => Ipv4Addr::new(10, a.max(1), b, c),
            Self::OneNetwork => Ipv4Addr::new(10, 9, 9, c.clamp(1, 254)),
        }
    }
}

/// Writes the headers of IPv4 (RFC 791), whose sum the kernel fills in, and of UDP, which needs none.
fn headers(packet: &mut [u8], source: Ipv4Addr, port: u8, server: SocketAddrV4) {
    let length = u16::try_from(packet.len()).expect("a question is short");
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&server.ip().octets());
    packet[20..22].copy_from_slice(&(0x8000 | u16::from(port)).to_be_bytes());
    packet[22..24].copy_from_slice(&server.port().to_be_bytes());
    packet[24..26].copy_from_slice(&(length - 20).to_be_bytes());
}
