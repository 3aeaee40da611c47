//! Datagrams as fast as the kernel takes them, from some sockets in turn. Nobody reads what comes back.

use std::net::{SocketAddrV4, UdpSocket};

use super::{Bounds, Report};
use crate::failure::{During, Outcome};
use crate::system::Datagrams;

const SOCKETS: usize = 16;
/// How many datagrams one system call sends.
const BATCH: usize = 64;

/// What is sent, one after the other.
pub(super) trait Messages {
    fn next(&mut self) -> &[u8];
}

pub(super) fn attack(server: SocketAddrV4, messages: &mut impl Messages, bounds: Bounds) -> Outcome<Report> {
    let open = || {
        let socket = UdpSocket::bind((*server.ip(), 0))?;
        socket.connect(server)?;
        std::io::Result::Ok(socket)
    };
    let sockets = (0..SOCKETS).map(|_| open()).collect::<Result<Vec<_>, _>>().during("opening sockets")?;
    let (mut report, mut datagrams) = (Report::default(), Datagrams::connected(BATCH));
    for socket in sockets.iter().cycle() {
        if bounds.over(&report) {
            break;
        }
        bounds.pace(&report);
        for index in 0..BATCH {
            let message = messages.next();
            datagrams.put(index, message);
            report.octets += message.len() as u64;
        }
        // Refused: the server is not there at the moment. The next ones may arrive.
        let _ = datagrams.send(socket, BATCH);
        report.sent += BATCH as u64;
    }
    Ok(report)
}
