//! Queries in datagrams: one thread for each socket, blocked in the kernel until a query comes.
//!
//! What the cache or the policy can answer is answered here, a batch at a time; two system calls for each query while it
//! is quiet, two for up to 64 of them while it is busy.

mod flood;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, net};

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::flood::Flood;
use super::Metrics;
use crate::clients::table::Offence;
use crate::clients::{Admission, Clients};
use crate::datagrams::{BATCH, Batch, Datagram, DatagramSocket, Inbox};
use crate::events::{Event, Transport};
use crate::kernel;
use crate::replies::Recipient;
use crate::resolve::{Asking, Protocol, Resolver, Sender, Step, Trust};
use crate::wire::HEADER;
use crate::wire::fault::Fault;

/// Stack of a reader, in octets; what is not touched takes no memory.
const STACK: usize = 512 << 10;

/// Datagrams asked for while it is quiet: room for each costs a few instructions, whether one comes or not.
const FEW: usize = 8;

/// The threads that read.
#[derive(Debug)]
pub struct Readers {
    sockets: Vec<Arc<DatagramSocket>>,
    threads: Vec<JoinHandle<()>>,
    ended: Arc<Notify>,
}

struct Reader {
    socket: Arc<DatagramSocket>,
    clients: Arc<Clients>,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    inbox: Inbox,
    replies: Batch,
    asking: Asking,
    flood: Flood,
    /// Datagrams to ask the kernel for.
    most: usize,
}

impl Readers {
    /// Starts one for each socket.
    pub fn start(
        sockets: Vec<net::UdpSocket>,
        clients: &Arc<Clients>,
        resolver: &Arc<Resolver>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let mut readers = Self { sockets: Vec::new(), threads: Vec::new(), ended: Arc::new(Notify::new()) };
        for (index, socket) in sockets.into_iter().enumerate() {
            let socket = Arc::new(DatagramSocket::new(socket, metrics.unsent.clone())?);
            readers.sockets.push(Arc::clone(&socket));
            let (clients, resolver, metrics) = (Arc::clone(clients), Arc::clone(resolver), metrics.clone());
            let ended = NotifyAtEnd(Arc::clone(&readers.ended));
            let read = move || {
                let _ended = ended;
                if let Err(error) = kernel::run_soon(kernel::SLICE_OF_READERS) {
                    debug!(%error, "a reader of datagrams runs like any other thread");
                }
                Reader::new(socket, clients, resolver, metrics).run();
            };
            let thread = thread::Builder::new().name(format!("udp-{index}")).stack_size(STACK);
            readers.threads.push(thread.spawn(read)?);
        }
        Ok(readers)
    }

    /// Waits until one has ended, by itself or because all were stopped.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Stops them, once they have answered what they have read. Replies still owed can be sent afterwards.
    pub fn stop(mut self) {
        self.sockets.iter().for_each(|socket| socket.stop());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a reader of datagrams had ended by a panic");
            }
        }
    }
}

/// Nothing else would end threads whose owner is gone.
impl Drop for Readers {
    fn drop(&mut self) {
        self.sockets.iter().for_each(|socket| socket.stop());
    }
}

/// Tells that a thread ends, also by a panic.
struct NotifyAtEnd(Arc<Notify>);

impl Drop for NotifyAtEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Reader {
    fn new(socket: Arc<DatagramSocket>, clients: Arc<Clients>, resolver: Arc<Resolver>, metrics: Metrics) -> Self {
        let flood = Flood::counted(metrics.floods.clone());
        Self {
            flood,
            socket,
            clients,
            resolver,
            metrics,
            inbox: Inbox::default(),
            replies: Batch::default(),
            asking: Asking::default(),
            most: FEW,
        }
    }

    fn run(mut self) {
        /// Failures in a row from which on something is wrong with the socket itself.
        const PERSISTENT: u32 = 16;
        /// Batches read after the end: more than the kernel holds.
        const LAST: usize = 32;
        let mut failures = 0;
        while !self.socket.is_stopped() {
            match self.read() {
                Ok(_) => failures = 0,
                // The kernel reports what happened to earlier datagrams here; none of it is about the next one.
                Err(_) if failures < PERSISTENT => failures += 1,
                Err(error) => {
                    warn!(%error, "reading datagrams fails");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
        // What has come by now is still answered; nothing is waited for any more.
        for _ in 0..LAST {
            if !self.read().unwrap_or(false) {
                break;
            }
        }
    }

    /// Reads a batch and answers what can be answered now; false when there was none.
    fn read(&mut self) -> io::Result<bool> {
        let received = self.receive()?;
        self.most = next_batch(self.most, received);
        // What is not one message's work.
        if catch_unwind(AssertUnwindSafe(|| self.answer(received))).is_err() {
            self.metrics.panics.note("listener");
        }
        Ok(self.inbox.get(0).is_some())
    }

    /// Takes what has come, and sees to it that who sends the most leaves room for others.
    fn receive(&mut self) -> io::Result<usize> {
        let received = match self.socket.receive(&mut self.inbox, self.most) {
            Err(error) if self.flood.holds_back() && error.kind() == io::ErrorKind::WouldBlock => 0,
            received => received?,
        };
        if received == BATCH {
            let sources = (0..received).filter_map(|index| self.inbox.get(index)).map(|one| one.peer.address);
            self.flood.full(&self.socket, sources, Instant::now());
        } else {
            self.flood.kept_up(&self.socket, Instant::now);
        }
        Ok(received)
    }

    fn answer(&mut self, received: usize) {
        let Self { socket, clients, resolver, metrics, inbox, replies, asking, .. } = self;
        let now = Instant::now();
        for datagram in (0..received).filter_map(|index| inbox.get(index)) {
            let peer = datagram.peer;
            let trust = match clients.admit_datagram(peer.address, now) {
                Admission::Free => Trust::Usual,
                Admission::Unproven { cookie_required } => Trust::Unproven { cookie_required },
                Admission::Dropped => continue,
            };
            let sender = Sender { protocol: Protocol::Udp, address: peer.address, trust };
            let step = answer_one(datagram, replies, metrics, |message, out| {
                let recipient = || Recipient::Datagram { socket: Arc::clone(socket), peer };
                resolver.begin(message, sender, now, out, asking, recipient)
            });
            if matches!(step, Some(Step::ReplyInvalid | Step::Ignore)) {
                blame(clients, metrics, datagram, now);
            }
        }
        replies.send(socket);
        metrics.contained(|| resolver.flush(asking));
    }
}

/// Puts the reply to a datagram, if there is one now, into the batch.
fn answer_one(
    datagram: Datagram<'_>,
    replies: &mut Batch,
    metrics: &Metrics,
    begin: impl FnOnce(&[u8], &mut Vec<u8>) -> Step,
) -> Option<Step> {
    // What was cut off is no query; its header is enough to say so.
    let whole = if datagram.truncated { datagram.bytes.len().min(HEADER) } else { datagram.bytes.len() };
    let out = replies.draft();
    let step = metrics.contained(|| begin(&datagram.bytes[..whole], out));
    if matches!(step, Some(Step::Reply | Step::ReplyInvalid | Step::ReplyOverShare)) {
        replies.commit(datagram.peer);
    }
    step
}

/// Takes down that a datagram was no query.
#[cold]
fn blame(clients: &Arc<Clients>, metrics: &Metrics, datagram: Datagram<'_>, now: Instant) {
    let how = if datagram.truncated { Fault::Trailing } else { Fault::of(datagram.bytes).unwrap_or(Fault::NotDns) };
    let (client, how) = (datagram.peer.address, how.as_str());
    metrics.events.emit(Event::ClientMisbehaved { client, transport: Transport::Udp, how });
    clients.offended(clients.sending(client), Offence::Datagram, how, now);
}

/// How many datagrams to ask for after a batch: many once more were waiting than fitted, few once few came.
fn next_batch(most: usize, received: usize) -> usize {
    if received == most {
        BATCH
    } else if received < FEW {
        FEW
    } else {
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagrams::SLOT;

    fn received(queries: &[&[u8]]) -> (Arc<DatagramSocket>, net::UdpSocket, Inbox) {
        let socket = net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for query in queries {
            client.send_to(query, socket.local_addr().unwrap()).unwrap();
        }
        let socket = DatagramSocket::new(socket, prometheus_client::metrics::counter::Counter::default()).unwrap();
        let mut inbox = Inbox::default();
        assert_eq!(socket.receive(&mut inbox, BATCH).unwrap(), queries.len());
        (Arc::new(socket), client, inbox)
    }

    fn echo(message: &[u8], out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(message);
        match message {
            b"panic" => panic!("injected"),
            b"ignore" => Step::Ignore,
            b"wait" => Step::Waiting,
            _ => Step::Reply,
        }
    }

    #[test]
    fn a_panic_loses_the_message_that_caused_it_and_no_other() {
        let (socket, client, inbox) = received(&[b"first", b"panic", b"ignore", b"wait", b"last"]);
        let (mut replies, metrics) = (Batch::default(), Metrics::default());
        for datagram in (0..5).filter_map(|index| inbox.get(index)) {
            answer_one(datagram, &mut replies, &metrics, echo);
        }
        replies.send(&socket);
        for expected in [&b"first"[..], b"last"] {
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
        assert_eq!(metrics.panics.count(), 1);
    }

    #[test]
    fn a_datagram_that_was_cut_off_is_answered_by_its_header_alone() {
        let (_socket, _client, inbox) = received(&[&[1; SLOT + 1]]);
        let mut seen = 0;
        answer_one(inbox.get(0).unwrap(), &mut Batch::default(), &Metrics::default(), |message, _| {
            seen = message.len();
            Step::Ignore
        });
        assert_eq!(seen, HEADER);
    }

    #[test]
    fn a_burst_of_a_hundred_after_a_quiet_time_is_read_in_three_batches() {
        let (mut waiting, mut most, mut batches) = (100, FEW, Vec::new());
        while waiting > 0 {
            let received = most.min(waiting);
            (waiting, most) = (waiting - received, next_batch(most, received));
            batches.push(received);
        }
        assert_eq!(batches, [FEW, BATCH, 100 - FEW - BATCH]);
        assert_eq!(next_batch(next_batch(most, 1), 1), FEW);
    }
}
