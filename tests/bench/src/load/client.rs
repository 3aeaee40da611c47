//! One client of the load: a connected UDP socket or a TCP connection, and what it asked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};

use super::Report;
use crate::histogram::Histogram;
use crate::system::{self, Datagrams, Readiness};
use crate::zone::{self, Names};

/// How many queries one client can have in flight: ten bits of the id tell which, six how often that place was used.
pub(super) const MOST: usize = 1 << 10;

/// One client.
pub(super) struct Client {
    server: SocketAddrV4,
    token: usize,
    channel: Channel,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// What its ids are combined with, so that no two clients use them in the same order.
    mask: u16,
    query: Vec<u8>,
    /// How many queries it sent on this connection.
    asked: u64,
}

enum Channel {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, unsent: Vec<u8>, unread: Vec<u8>, closed: bool },
}

/// A place for one query in flight.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// When it was sent; 0 when the place is free.
    sent: u64,
    generation: u16,
    number: u64,
}

/// What has come of all queries so far.
pub(super) struct Outcomes {
    pub(super) histogram: Histogram,
    pub(super) report: Report,
    pub(super) unchecked: bool,
    pub(super) log: Option<Vec<Event>>,
}

/// One query, when it is done with.
pub(super) struct Event {
    pub(super) sent: u64,
    pub(super) latency: u64,
    /// Its response code, or none when it was lost.
    code: Option<u8>,
}

impl Event {
    pub(super) fn outcome(&self) -> String {
        self.code.map_or_else(|| "lost".to_owned(), |code| code.to_string())
    }
}

impl Client {
    /// A client that may have `share` queries in flight.
    pub(super) fn new(
        server: SocketAddrV4,
        tcp: bool,
        share: usize,
        token: usize,
        readiness: &Readiness,
    ) -> io::Result<Self> {
        let channel = if tcp { Channel::tcp(server)? } else { Channel::udp(server)? };
        channel.watch(readiness, token)?;
        let mask = u16::try_from(token % (1 << 16)).unwrap_or(0).wrapping_mul(0x9e37);
        let free = (0..u16::try_from(share).unwrap_or(u16::MAX)).rev().collect();
        Ok(Self {
            server,
            token,
            channel,
            slots: vec![Slot::default(); share],
            free,
            mask,
            query: Vec::new(),
            asked: 0,
        })
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sends at most `count` queries, of the names from `first` on; tells how many.
    pub(super) fn ask(&mut self, names: &Names, first: u64, count: usize, datagrams: &mut Datagrams) -> usize {
        let count = count.min(self.free.len());
        if count == 0 {
            return 0;
        }
        self.asked += count as u64;
        let now = system::monotonic();
        for (index, name) in (0..count).zip(first..) {
            let Some(place) = self.free.pop() else { break };
            let slot = &mut self.slots[usize::from(place)];
            let generation = (slot.generation + 1) & 63;
            self.query.clear();
            let number = names.query(name, (place | generation << 10) ^ self.mask, &mut self.query);
            *slot = Slot { sent: now, generation, number };
            match &mut self.channel {
                Channel::Udp(_) => datagrams.put(index, &self.query),
                Channel::Tcp { unsent, .. } => {
                    unsent.extend_from_slice(&u16::try_from(self.query.len()).unwrap_or(0).to_be_bytes());
                    unsent.extend_from_slice(&self.query);
                }
            }
        }
        match &mut self.channel {
            // What the system has no room for is lost, as it would be on a network.
            Channel::Udp(socket) => drop(datagrams.send(&*socket, count)),
            tcp @ Channel::Tcp { .. } => tcp.write(),
        }
        count
    }

    /// Takes what has come; tells how many queries that finished.
    pub(super) fn receive(&mut self, datagrams: &mut Datagrams, outcomes: &mut Outcomes) -> usize {
        let before = self.free.len();
        match &mut self.channel {
            Channel::Udp(socket) => {
                let count = datagrams.receive(&*socket, false).unwrap_or(0);
                let now = system::monotonic();
                for index in 0..count {
                    take(&mut self.slots, &mut self.free, self.mask, datagrams.received(index), now, outcomes);
                }
            }
            Channel::Tcp { stream, unread, closed, .. } => {
                let mut buffer = [0; 1 << 16];
                match stream.read(&mut buffer) {
                    Ok(0) => *closed = true,
                    Ok(octets) => unread.extend_from_slice(&buffer[..octets]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => *closed = true,
                }
                let (now, mut at) = (system::monotonic(), 0);
                while let Some(message) = framed(&unread[at..]) {
                    take(&mut self.slots, &mut self.free, self.mask, message, now, outcomes);
                    at += 2 + message.len();
                }
                unread.drain(..at);
                self.channel.write();
            }
        }
        self.free.len() - before
    }

    /// How many queries it sent on its connection.
    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Whether it asked so many times on its connection, and has all the answers.
    pub(super) fn spent(&self, churn: u64) -> bool {
        self.asked >= churn && self.in_flight() == 0
    }

    /// Whether the server closed the connection.
    pub(super) fn closed(&self) -> bool {
        matches!(self.channel, Channel::Tcp { closed: true, .. })
    }

    pub(super) fn reconnect(&mut self, readiness: &Readiness) -> io::Result<()> {
        self.asked = 0;
        self.channel = Channel::tcp(self.server)?;
        self.channel.watch(readiness, self.token)
    }

    /// Counts as lost what was sent at a time of which `given_up` is true; tells how many.
    pub(super) fn lose(&mut self, given_up: impl Fn(u64) -> bool, outcomes: &mut Outcomes) -> usize {
        let (before, now) = (self.free.len(), system::monotonic());
        for (slot, place) in self.slots.iter_mut().zip(0..) {
            if slot.sent != 0 && given_up(slot.sent) {
                outcomes.report.lost += 1;
                outcomes.note(slot.sent, now, None);
                slot.sent = 0;
                self.free.push(place);
            }
        }
        self.free.len() - before
    }
}

/// Finds the query that this replies to, and counts what came of it.
fn take(slots: &mut [Slot], free: &mut Vec<u16>, mask: u16, reply: &[u8], now: u64, outcomes: &mut Outcomes) {
    let id = reply.first_chunk::<4>().map(|head| (u16::from_be_bytes([head[0], head[1]]) ^ mask, head[3] & 15));
    let Some((id, code)) = id else {
        outcomes.report.stray += 1;
        return;
    };
    let place = id & 1023;
    match slots.get_mut(usize::from(place)) {
        Some(slot) if slot.sent != 0 && slot.generation == id >> 10 && reply[2] & 0x80 != 0 => {
            outcomes.count(slot, reply, code, now);
            slot.sent = 0;
            free.push(place);
        }
        _ => outcomes.report.stray += 1,
    }
}

impl Outcomes {
    fn count(&mut self, slot: &Slot, reply: &[u8], code: u8, now: u64) {
        match code {
            _ if self.unchecked || zone::answers(reply, slot.number) => {
                self.report.answered += 1;
                self.histogram.add(now - slot.sent);
            }
            0 => self.report.wrong += 1,
            2 => self.report.servfail += 1,
            _ => self.report.errors += 1,
        }
        self.note(slot.sent, now, Some(code));
    }

    fn note(&mut self, sent: u64, now: u64, code: Option<u8>) {
        if let Some(log) = &mut self.log {
            log.push(Event { sent, latency: now - sent, code });
        }
    }
}

impl Channel {
    fn udp(server: SocketAddrV4) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        system::buffer(&socket, 1 << 20);
        Ok(Self::Udp(socket))
    }

    fn tcp(server: SocketAddrV4) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::V4(server), std::time::Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Tcp { stream, unsent: Vec::new(), unread: Vec::new(), closed: false })
    }

    fn watch(&self, readiness: &Readiness, token: usize) -> io::Result<()> {
        match self {
            Self::Udp(socket) => readiness.add(socket, token),
            Self::Tcp { stream, .. } => readiness.add(stream, token),
        }
    }

    /// Writes what TCP has room for; the rest goes when the next reply has come.
    fn write(&mut self) {
        if let Self::Tcp { stream, unsent, .. } = self
            && let Ok(octets) = stream.write(unsent)
        {
            unsent.drain(..octets);
        }
    }
}

/// The first message of a stream (RFC 1035, 4.2.2), once it is there in full.
fn framed(stream: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*stream.first_chunk()?));
    stream.get(2..2 + length)
}
