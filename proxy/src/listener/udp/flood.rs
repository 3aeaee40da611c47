//! What becomes of a socket to which more is sent than can be read.
//!
//! The kernel then drops whatever finds the queue full, so that a program that asks once loses as large a part of its queries
//! as one that sends them by the million. So who sends the most is found, and the kernel is told to take a part of that alone,
//! before it is queued: as large a part as leaves room in the queue for everybody else. Nobody is shut out, and nothing is
//! held back while the kernel drops nothing, however much comes.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use tracing::info;

use crate::datagrams::{DatagramSocket, Source};

/// Datagrams read without ever having found the queue empty, until it is judged who sends them.
const WINDOW: usize = 1024;

/// Senders told apart. Whoever sends more than one datagram in so many is among them (Misra and Gries, Finding repeated
/// elements, 1982).
const SENDERS: usize = 64;

/// Who sent so many datagrams of a window, beyond what may be others', sends the most.
const MUCH: u32 = 16;

/// How long the queue was not full before a larger part is taken; the reader sleeps no longer meanwhile.
const STEP: Duration = Duration::from_millis(10);

/// Parts, of 2³²: all that there is, by how much more is taken, and the least.
const ALL: u32 = u32::MAX;
const MORE: u32 = ALL / 32;
const LEAST: u32 = ALL / 1024;

/// What is known of those who send to a socket.
#[derive(Debug)]
pub(super) struct Flood {
    senders: [(Source, u32); SENDERS],
    /// Datagrams counted.
    seen: usize,
    /// What the kernel had dropped when that was last looked at.
    dropped: Option<u32>,
    held_back: Option<HeldBack>,
    /// The kernel does not do it.
    refused: bool,
    floods: Counter,
}

/// Of whom a part alone is taken.
#[derive(Debug)]
struct HeldBack {
    sources: Vec<Source>,
    /// How large a part, of 2³².
    part: u32,
    /// Since when.
    since: Instant,
}

impl Flood {
    /// Nobody floods yet; how often it happens is counted there.
    pub(super) fn counted(floods: Counter) -> Self {
        let senders = [(Source::NONE, 0); SENDERS];
        Self { senders, seen: 0, dropped: None, held_back: None, refused: false, floods }
    }

    /// Whether somebody is held back.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Takes down that no more came for the moment.
    pub(super) fn kept_up(&mut self, socket: &DatagramSocket, now: impl FnOnce() -> Instant) {
        self.forget();
        let Some(held_back) = &mut self.held_back else { return };
        let now = now();
        if now.saturating_duration_since(held_back.since) < STEP {
            return;
        }
        held_back.since = now;
        held_back.part = held_back.part.saturating_add(MORE);
        if held_back.part < ALL {
            self.apply(socket);
        } else {
            self.end(socket);
        }
    }

    /// Takes down who sent a batch behind which there may be more.
    pub(super) fn full(&mut self, socket: &DatagramSocket, senders: impl Iterator<Item = SocketAddr>, now: Instant) {
        if self.refused {
            return;
        }
        for sender in senders {
            self.count(Source::of(sender));
        }
        if self.seen < WINDOW {
            return;
        }
        if self.holds_back() || self.has_dropped(socket) {
            self.hold_back(socket, now);
        }
        self.forget();
    }

    fn count(&mut self, sender: Source) {
        self.seen += 1;
        if let Some((_, count)) = self.senders.iter_mut().find(|(known, _)| *known == sender) {
            *count += 1;
        } else if let Some(free) = self.senders.iter_mut().find(|(_, count)| *count == 0) {
            *free = (sender, 1);
        } else {
            self.senders.iter_mut().for_each(|(_, count)| *count -= 1);
        }
    }

    fn forget(&mut self) {
        if self.seen > 0 {
            self.senders = [(Source::NONE, 0); SENDERS];
            self.seen = 0;
        }
    }

    /// Whether the kernel has dropped something since it was last asked.
    fn has_dropped(&mut self, socket: &DatagramSocket) -> bool {
        let Ok(dropped) = socket.dropped() else {
            self.refused = true;
            return false;
        };
        self.dropped.replace(dropped).unwrap_or(0) != dropped
    }

    /// Takes half as much as until now of those who send the most.
    fn hold_back(&mut self, socket: &DatagramSocket, now: Instant) {
        let most = self.senders.iter().filter(|(_, count)| *count >= MUCH).map(|(sender, _)| *sender);
        let before = self.held_back.take();
        let begins = before.is_none();
        let HeldBack { mut sources, part, .. } =
            before.unwrap_or(HeldBack { sources: Vec::with_capacity(2 * SENDERS), part: ALL, since: now });
        for sender in most {
            if !sources.contains(&sender) {
                sources.push(sender);
            }
        }
        // Those that came last are those that are there.
        sources.drain(..sources.len().saturating_sub(SENDERS));
        if sources.is_empty() {
            return; // nobody sends more than the others
        }
        let count = sources.len();
        self.held_back = Some(HeldBack { sources, part: (part / 2).max(LEAST), since: now });
        self.apply(socket);
        if begins && self.holds_back() {
            let _ = socket.wait_at_most(Some(STEP)); // else it ends with the next datagram
            self.floods.inc();
            info!(senders = count, "more datagrams come than can be read: of who sends the most a part alone is taken");
        }
    }

    /// Has the kernel do it.
    fn apply(&mut self, socket: &DatagramSocket) {
        let Some(HeldBack { sources, part, .. }) = &self.held_back else { return };
        if let Err(error) = socket.take_part_of(sources, *part) {
            info!(%error, "the kernel holds nobody back: who sends too many datagrams costs others theirs");
            self.refused = true;
            self.end(socket);
        }
    }

    fn end(&mut self, socket: &DatagramSocket) {
        self.held_back = None;
        // What was held back counts as dropped.
        self.dropped = socket.dropped().ok();
        let _ = socket.take_all(); // an error says that there is nothing to end
        let _ = socket.wait_at_most(None);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    use crate::datagrams::{BATCH, Inbox};

    struct Reader {
        socket: DatagramSocket,
        inbox: Inbox,
        flood: Flood,
        now: Instant,
    }

    impl Reader {
        fn new() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let socket = DatagramSocket::new(socket, Counter::default()).unwrap();
            let flood = Flood::counted(Counter::default());
            Self { socket, inbox: Inbox::default(), flood, now: Instant::now() }
        }

        fn client(&self) -> UdpSocket {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(self.socket.local_addr().unwrap()).unwrap();
            client
        }

        /// Takes down full batches, as long as a window is, from these in turn.
        fn window(&mut self, senders: &[SocketAddr]) {
            let mut all = senders.iter().copied().cycle();
            for _ in 0..WINDOW / BATCH {
                self.flood.full(&self.socket, all.by_ref().take(BATCH), self.now);
            }
        }

        /// Has time pass in which the reader keeps up.
        fn keep_up(&mut self, steps: u32) {
            for _ in 0..steps {
                self.now += STEP;
                let now = self.now;
                self.flood.kept_up(&self.socket, || now);
            }
        }

        /// How many of so many sent arrive.
        fn arrive(&mut self, client: &UdpSocket, count: usize) -> usize {
            let mut arrived = 0;
            self.socket.wait_at_most(Some(Duration::from_millis(1))).unwrap();
            for _ in 0..count {
                client.send(b"query").unwrap();
                arrived += self.socket.receive(&mut self.inbox, BATCH).unwrap_or(0);
            }
            arrived
        }

        /// Has the kernel drop some for want of room.
        fn overflow(&mut self, client: &UdpSocket) {
            let before = self.socket.dropped().unwrap();
            while self.socket.dropped().unwrap() == before {
                client.send(&[0; 1000]).unwrap();
            }
            self.socket.wait_at_most(Some(Duration::from_millis(1))).unwrap();
            while self.socket.receive(&mut self.inbox, BATCH).is_ok() {}
        }
    }

    fn address(client: &UdpSocket) -> SocketAddr {
        client.local_addr().unwrap()
    }

    #[test]
    fn however_much_comes_nobody_is_held_back_as_long_as_nothing_is_dropped() {
        let mut reader = Reader::new();
        let client = reader.client();
        for _ in 0..10 {
            reader.window(&[address(&client)]);
        }
        assert!(!reader.flood.holds_back());
    }

    #[test]
    fn of_who_sends_the_most_a_part_is_taken_until_the_reader_keeps_up_and_of_others_all() {
        let mut reader = Reader::new();
        let (greedy, modest) = (reader.client(), reader.client());
        reader.overflow(&greedy);
        for _ in 0..5 {
            reader.window(&[address(&greedy)]);
        }
        // A thirty-second part.
        let arrived = reader.arrive(&greedy, 320);
        assert!((1..=40).contains(&arrived), "{arrived}");
        assert_eq!(reader.arrive(&modest, 100), 100);
        reader.keep_up(31);
        assert!(reader.flood.holds_back());
        reader.keep_up(1);
        assert!(!reader.flood.holds_back());
        assert_eq!(reader.arrive(&greedy, 100), 100);
        // What was held back before is no reason to do it again.
        reader.window(&[address(&greedy)]);
        assert!(!reader.flood.holds_back());
        assert_eq!(reader.flood.floods.get(), 1);
    }

    #[test]
    fn where_nobody_sends_more_than_the_others_nobody_is_held_back() {
        let mut reader = Reader::new();
        let client = reader.client();
        reader.overflow(&client);
        let many: Vec<_> = (0..1000).map(|port| SocketAddr::from(([127, 0, 0, 1], 10_000 + port))).collect();
        reader.window(&many);
        assert!(!reader.flood.holds_back());
    }

    #[test]
    fn who_changes_its_port_is_found_again_and_the_list_stays_short() {
        let mut reader = Reader::new();
        let client = reader.client();
        reader.overflow(&client);
        for port in 0..300 {
            reader.window(&[SocketAddr::from(([127, 0, 0, 1], 10_000 + port))]);
        }
        reader.window(&[address(&client)]);
        assert!(reader.arrive(&client, 1000) < 50);
        assert_eq!(reader.flood.held_back.as_ref().unwrap().sources.len(), SENDERS);
    }
}
