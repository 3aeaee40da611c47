//! Datagrams in batches: many received by one system call, many sent by one, with buffers that stay.
//!
//! Memory is bounded by [`BATCH`] slots of [`SLOT`] octets, of which only pages that something was written to are
//! resident. What talks to the kernel is in one file per platform: `linux.rs`, with the `unsafe` that system calls need,
//! and `portable.rs`, one datagram at a time, for developing elsewhere.

#[cfg(target_os = "linux")]
#[path = "datagrams/linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "datagrams/portable.rs"]
mod system;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;

pub use system::Inbox;

/// Datagrams in one system call, at most.
pub const BATCH: usize = 64;

/// Longest datagram that is read whole: more than the 1,232 octets that this proxy says it takes (RFC 6891 §6.2.3).
pub const SLOT: usize = 2048;

/// A client, and the address of ours that it asked: the reply has to come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client.
    pub address: SocketAddr,
    /// Known, and needed, where the socket is bound to an unspecified address.
    local: Option<Local>,
}

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Local {
    address: IpAddr,
    /// The interface's index for a link-local address, which means nothing without; else 0: routing chooses.
    interface: u32,
}

/// A datagram received.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Its payload, or what of it fits a slot.
    pub bytes: &'a [u8],
    /// Whether it was longer than a slot.
    pub truncated: bool,
    /// Who sent it.
    pub peer: Peer,
}

/// A bound UDP socket that one thread reads, blocking, and any thread may send on.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    stopped: AtomicBool,
    unsent: Counter,
}

/// Replies gathered for one go, in one buffer that stays.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    replies: Vec<Reply>,
}

#[derive(Debug, Clone, Copy)]
struct Reply {
    /// Where it ends in the buffer; it starts where the one before it ends.
    end: usize,
    peer: Peer,
}

impl DatagramSocket {
    /// Takes a bound, blocking socket. What could not be sent on it is counted.
    pub fn new(socket: UdpSocket, unsent: Counter) -> io::Result<Self> {
        let address = socket.local_addr()?;
        system::prepare(&socket, address.ip())?;
        Ok(Self { socket, stopped: AtomicBool::new(false), unsent })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for a datagram and takes what has come, up to so many; tells how many the inbox now holds. With 0, or an
    /// error, [`is_stopped`](Self::is_stopped) says whether that was the end; other errors are of earlier datagrams.
    pub fn receive(&self, inbox: &mut Inbox, most: usize) -> io::Result<usize> {
        inbox.receive(&self.socket, most.clamp(1, BATCH))
    }

    /// Ends the wait of the thread that reads, now and for good. Replies can still be sent.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        system::wake_reader(&self.socket);
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Batch {
    /// The buffer to append a reply to, for [`commit`](Self::commit) to keep; what was not committed is cut off.
    pub fn draft(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.end());
        &mut self.bytes
    }

    /// Keeps what was appended, as one reply.
    pub fn commit(&mut self, peer: Peer) {
        self.replies.push(Reply { end: self.bytes.len(), peer });
    }

    /// How many replies there are.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Sends all replies and forgets them. One that cannot be sent now is lost and counted, the others go: a client
    /// asks again, and nobody is held up.
    pub fn send(&mut self, socket: &DatagramSocket) {
        /// More than a batch of usual replies; a larger buffer is given back.
        const KEPT: usize = 32 << 10;
        if self.is_empty() {
            return;
        }
        self.bytes.truncate(self.end());
        let sent = system::send(&socket.socket, &self.bytes, &self.replies);
        if sent < self.len() {
            socket.unsent.inc_by((self.len() - sent) as u64);
        }
        self.replies.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
    }

    fn end(&self) -> usize {
        self.replies.last().map_or(0, |last| last.end)
    }
}

/// Each reply's bytes and peer.
fn each<'a>(bytes: &'a [u8], replies: &'a [Reply]) -> impl Iterator<Item = (&'a [u8], Peer)> {
    let mut start = 0;
    replies.iter().map(move |reply| {
        let message = &bytes[start..reply.end];
        start = reply.end;
        (message, reply.peer)
    })
}
