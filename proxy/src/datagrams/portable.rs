//! One datagram at a time, where there is no recvmmsg: for developing, not for serving.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::source::Source;
use super::{Datagram, Peer, Reply, SLOT, each};

/// How long a reader may take to see that it was told to stop.
const NOTICE: Duration = Duration::from_millis(100);

/// A datagram as it was received.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    received: Option<(usize, SocketAddr)>,
}

impl Default for Inbox {
    fn default() -> Self {
        // An octet more than a slot: what fills it is truncated.
        Self { bytes: vec![0; SLOT + 1], received: None }
    }
}

impl Inbox {
    pub(super) fn receive(&mut self, socket: &UdpSocket, _most: usize) -> io::Result<usize> {
        self.received = None;
        self.received = Some(socket.recv_from(&mut self.bytes)?);
        Ok(1)
    }

    /// A datagram of the last batch; none where the index is beyond it.
    pub fn get(&self, index: usize) -> Option<Datagram<'_>> {
        let (length, address) = self.received.filter(|_| index == 0)?;
        let peer = Peer::at(address);
        Some(Datagram { bytes: &self.bytes[..length.min(SLOT)], truncated: length > SLOT, peer })
    }
}

pub(super) fn prepare(socket: &UdpSocket, _local: IpAddr) -> io::Result<()> {
    socket.set_read_timeout(Some(NOTICE))
}

pub(super) fn take_part_of(_: &UdpSocket, _: &[Source], _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn take_all(_: &UdpSocket) -> io::Result<()> {
    Ok(())
}

pub(super) fn dropped(_: &UdpSocket) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn wake_reader(_socket: &UdpSocket) {}

/// Sends each; tells how many went.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8], replies: &[Reply]) -> usize {
    each(bytes, replies).filter(|(message, peer)| socket.send_to(message, peer.address).is_ok()).count()
}
