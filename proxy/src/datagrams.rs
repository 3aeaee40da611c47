//! Datagrams in batches: many received by one system call, many sent by one, with buffers that stay.
//!
//! Memory is bounded by [`BATCH`] slots of [`SLOT`] octets, of which only pages that something was written to are
//! resident. What talks to the kernel is in one file per platform: `linux.rs`, with the `unsafe` that system calls need,
//! and `portable.rs`, one datagram at a time, for developing elsewhere.

mod source;
#[cfg(target_os = "linux")]
#[path = "datagrams/linux.rs"]
mod system;
#[cfg(not(target_os = "linux"))]
#[path = "datagrams/portable.rs"]
mod system;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

pub use source::Source;
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

    /// Waits for a datagram and takes what has come, up to so many; tells how many the inbox now holds. After
    /// [`stop`](Self::stop) nothing is waited for: what has come is received, then an inbox without any datagram. An error
    /// is of an earlier datagram, or of an end.
    pub fn receive(&self, inbox: &mut Inbox, most: usize) -> io::Result<usize> {
        inbox.receive(&self.socket, most.clamp(1, BATCH))
    }

    /// Has [`receive`](Self::receive) wait so long at most, and then fail; or for ever.
    pub fn wait_at_most(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(time)
    }

    /// Has the kernel take as large a part of what these sources send as `part` is of 2³², and all of what others send. What
    /// it does not take counts as dropped. There may be 250 sources at most.
    pub fn take_part_of(&self, sources: &[Source], part: u32) -> io::Result<()> {
        system::take_part_of(&self.socket, sources, part)
    }

    /// Has the kernel take all again.
    pub fn take_all(&self) -> io::Result<()> {
        system::take_all(&self.socket)
    }

    /// Datagrams that the kernel has dropped so far: there was no room for them, or they were not to be taken. The count begins
    /// anew at 2³².
    pub fn dropped(&self) -> io::Result<u32> {
        system::dropped(&self.socket)
    }

    /// Ends the wait of the thread that reads, now and for good. What has come can still be read, and replies be sent.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        system::wake_reader(&self.socket);
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Peer {
    /// A client of a socket that is bound to one address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, local: None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Duration;

    fn bound(address: &str) -> (Arc<DatagramSocket>, u16) {
        let socket = DatagramSocket::new(UdpSocket::bind(address).unwrap(), Counter::default()).unwrap();
        let port = socket.local_addr().unwrap().port();
        (Arc::new(socket), port)
    }

    fn client(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Sends every datagram of the inbox back.
    fn echo(socket: &DatagramSocket, inbox: &Inbox, received: usize) {
        let mut batch = Batch::default();
        for datagram in (0..received).filter_map(|index| inbox.get(index)) {
            batch.draft().extend_from_slice(datagram.bytes);
            batch.commit(datagram.peer);
        }
        batch.send(socket);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn bound_to_all_addresses_the_reply_comes_from_the_one_that_was_asked() {
        for (bound_to, from, asked) in [
            ("0.0.0.0:0", "127.0.0.1:0", ["127.0.0.1", "127.0.0.2"]),
            ("[::]:0", "[::1]:0", ["::1", "::1"]),
            ("[::]:0", "127.0.0.1:0", ["127.0.0.1", "127.0.0.2"]),
        ] {
            let (socket, port) = bound(bound_to);
            let mut inbox = Inbox::default();
            for asked in asked {
                let asked = SocketAddr::new(asked.parse().unwrap(), port);
                let client = client(from);
                // A connected socket takes replies from the address that it asked, and from no other.
                client.connect(asked).unwrap();
                client.send(b"query").unwrap();
                let received = socket.receive(&mut inbox, 1).unwrap();
                echo(&socket, &inbox, received);
                let mut buffer = [0; 16];
                assert_eq!(client.recv(&mut buffer).unwrap(), 5, "{bound_to} {asked}");
            }
            assert_eq!(socket.unsent.get(), 0);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_has_come_is_received_in_one_batch_and_answered_in_one() {
        let (socket, port) = bound("127.0.0.1:0");
        let clients: Vec<_> = (0..BATCH + 6).map(|_| client("127.0.0.1:0")).collect();
        for (index, client) in clients.iter().enumerate() {
            client.send_to(format!("query {index}").as_bytes(), ("127.0.0.1", port)).unwrap();
        }
        let mut inbox = Inbox::default();
        for expected in [3, BATCH, 3] {
            let received = socket.receive(&mut inbox, expected).unwrap();
            assert_eq!(received, expected);
            echo(&socket, &inbox, received);
        }
        for (index, client) in clients.iter().enumerate() {
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], format!("query {index}").as_bytes());
        }
    }

    #[test]
    fn a_datagram_longer_than_a_slot_is_told_from_one_that_fits() {
        let (socket, port) = bound("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        let mut inbox = Inbox::default();
        for length in [0, 1, SLOT, SLOT + 1, 60_000] {
            client.send_to(&vec![7; length], ("127.0.0.1", port)).unwrap();
            assert_eq!(socket.receive(&mut inbox, 1).unwrap(), 1);
            let datagram = inbox.get(0).unwrap();
            assert_eq!((datagram.bytes.len(), datagram.truncated), (length.min(SLOT), length > SLOT));
            assert!(datagram.bytes.iter().all(|byte| *byte == 7));
            assert_eq!(datagram.peer, Peer::at(client.local_addr().unwrap()));
        }
    }

    #[test]
    fn stopping_ends_the_wait_of_a_reader_and_replies_still_go() {
        let (socket, _) = bound("127.0.0.1:0");
        let reading = Arc::clone(&socket);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let reader = std::thread::spawn(move || {
            started.send(()).unwrap();
            let mut inbox = Inbox::default();
            while !reading.is_stopped() {
                if let Ok(received) = reading.receive(&mut inbox, 1) {
                    assert!((0..received).all(|index| inbox.get(index).is_none()));
                }
            }
        });
        start.recv().unwrap();
        socket.stop();
        reader.join().unwrap();
        let client = client("127.0.0.1:0");
        let mut batch = Batch::default();
        batch.draft().extend_from_slice(b"late");
        batch.commit(Peer::at(client.local_addr().unwrap()));
        batch.send(&socket);
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_came_before_the_stop_is_still_received_and_then_nothing() {
        let (socket, port) = bound("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        for _ in 0..3 {
            client.send_to(b"query", ("127.0.0.1", port)).unwrap();
        }
        socket.stop();
        let mut inbox = Inbox::default();
        assert_eq!(socket.receive(&mut inbox, 2).unwrap(), 2);
        assert_eq!(socket.receive(&mut inbox, 2).unwrap(), 1);
        assert!(inbox.get(0).is_some());
        for _ in 0..2 {
            socket.receive(&mut inbox, 2).unwrap();
            assert!(inbox.get(0).is_none());
        }
    }

    #[test]
    fn a_reply_that_cannot_be_sent_is_counted_and_the_others_go() {
        let (socket, _) = bound("127.0.0.1:0");
        let client = client("127.0.0.1:0");
        let reachable = Peer::at(client.local_addr().unwrap());
        let port_zero = Peer::at("127.0.0.1:0".parse().unwrap());
        let mut batch = Batch::default();
        for (text, peer) in [("a", port_zero), ("b", reachable), ("c", port_zero), ("d", port_zero), ("e", reachable)] {
            batch.draft().extend_from_slice(text.as_bytes());
            batch.commit(peer);
            batch.draft().extend_from_slice(b"never committed");
        }
        batch.send(&socket);
        let heard: HashSet<_> = (0..2)
            .map(|_| {
                let mut buffer = [0; 64];
                let length = client.recv(&mut buffer).unwrap();
                buffer[..length].to_vec()
            })
            .collect();
        assert_eq!(heard, HashSet::from([b"b".to_vec(), b"e".to_vec()]));
        assert_eq!(socket.unsent.get(), 3);
        assert!(batch.is_empty());
    }
}
