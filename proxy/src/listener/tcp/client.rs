//! One TCP client: what it sent is read at one go, what it is owed is written at one go.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::super::Metrics;
use super::Limits;
use super::closed::Closed;
use super::connections::Slot;
use crate::replies::{Recipient, StreamOutbox};
use crate::resolve::{Asking, Resolver, Sender, Step};
use crate::wire::fault::Fault;

/// Octets of a query's length (RFC 1035 §4.2.2): fewer are nothing to wake for.
pub(in crate::listener) const LENGTH: usize = 2;

/// Octets read at one go.
const READ: usize = 8 << 10;

/// A client that sent so much is served on when the others have had their turn, in octets.
const TURN: usize = READ;

/// Once so many octets of replies are ready they are written before more queries are looked at.
const WRITE: usize = 16 << 10;

/// Buffers for whichever client is being served by a thread.
pub(super) struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
    asking: Asking,
}

/// A connected client. Anything that reads and writes bytes will do, so that it can be fuzzed in memory.
pub(super) struct Client<S> {
    stream: S,
    sender: Sender,
    slot: Slot,
    outbox: Arc<StreamOutbox>,
    limits: Arc<Limits>,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    /// Input that ends in the middle of a query, or for which there was no room yet.
    unread: Vec<u8>,
    /// Whether there is a whole query in it.
    more: bool,
    /// When what is unread began to come, if it is part of a query.
    begun: Option<Instant>,
    /// What was read last was part of a query.
    in_pieces: bool,
    /// Replies that the client has not taken yet.
    unsent: Vec<u8>,
    /// Since when.
    stuck: Option<Instant>,
    /// Octets read in this turn.
    turn: usize,
    /// Nothing is read any more; what is owed is written.
    closing: Option<Closed>,
    /// When a query came or a reply went.
    active: Instant,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { input: vec![0; READ].into(), output: Vec::new(), asking: Asking::default() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(
        stream: S,
        sender: Sender,
        slot: Slot,
        outbox: Arc<StreamOutbox>,
        limits: Arc<Limits>,
        resolver: Arc<Resolver>,
        metrics: Metrics,
    ) -> Self {
        Self {
            stream,
            sender,
            slot,
            outbox,
            limits,
            resolver,
            metrics,
            unread: Vec::new(),
            more: false,
            begun: None,
            in_pieces: false,
            unsent: Vec::new(),
            stuck: None,
            turn: 0,
            closing: None,
            active: Instant::now(),
        }
    }

    /// Reads nothing more, and ends once what is owed is written.
    pub(super) fn end(&mut self, reason: Closed) {
        self.closing.get_or_insert(reason);
    }

    /// When to look whether the client is still of this world, and what it is if that time has come.
    pub(super) fn due(&self, now: Instant) -> (Instant, Closed) {
        let limits = &self.limits;
        if let Some(stuck) = self.stuck {
            return (stuck + limits.reply, Closed::NeverRead);
        }
        if self.closing.is_some() || self.more {
            return (now + limits.idle, Closed::Idle); // what is owed comes to its end, or will be stuck
        }
        if let Some(begun) = self.begun {
            return (begun + limits.query, Closed::Trickled);
        }
        if self.outbox.in_flight() > 0 {
            return (now + limits.idle, Closed::Idle); // an answer or a failure will come first
        }
        let reason = if self.slot.is_unused() { Closed::Unused } else { Closed::Idle };
        (self.active + limits.idle, reason)
    }

    /// How many octets must come before there is anything to do: a query's length, then the rest of it. Who sends it octet
    /// by octet does not take a turn for each.
    pub(super) fn awaited(&self) -> usize {
        let Some((length, begun)) = self.unread.split_first_chunk() else { return LENGTH - self.unread.len() };
        usize::from(u16::from_be_bytes(*length)).saturating_sub(begun.len()).max(1)
    }

    /// Whether its queries come in pieces: serving it takes more turns than it does for others.
    pub(super) fn sends_in_pieces(&self) -> bool {
        self.in_pieces
    }

    /// The connection.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Gives the connection back; nothing is owed any more.
    pub(super) fn into_stream(self) -> S {
        self.outbox.close();
        self.stream
    }

    /// Reads and writes as far as it can be done now; ready when the connection is to be closed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Closed> {
        scratch.output.clear(); // what a panic may have left
        self.turn = 0;
        let polled = self.advance(context, scratch);
        scratch.output.clear();
        scratch.output.shrink_to(4 * WRITE);
        if polled.is_pending() && !self.outbox.keep_aside(self.unread.len() + self.unsent.len()) {
            return Poll::Ready(Closed::Octets);
        }
        polled
    }

    fn advance(&mut self, context: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Closed> {
        loop {
            let most = if self.closing.is_some() { 1 } else { self.limits.in_flight };
            let owed = self.outbox.collect(context.waker(), most, &mut scratch.output);
            if owed.overrun {
                return Poll::Ready(Closed::Octets);
            }
            if let Some(reason) = self.slot.told_to_go() {
                return Poll::Ready(reason);
            }
            if ready!(self.poll_write(context, &mut scratch.output)).is_err() {
                return Poll::Ready(Closed::Failed);
            }
            if owed.in_flight >= most {
                return Poll::Pending;
            }
            if let Some(reason) = self.closing {
                return Poll::Ready(reason);
            }
            let room = self.limits.in_flight - owed.in_flight;
            if self.more {
                self.take_unread(room, &mut scratch.output, &mut scratch.asking);
                continue;
            }
            if self.turn >= TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.poll_read(context, room, scratch)) {
                Ok(0) => self.closing = Some(Closed::Left),
                Ok(length) => self.turn += length,
                Err(_) => return Poll::Ready(Closed::Failed),
            }
        }
    }

    /// Writes all replies in the buffer and those left over from before; pending while the client takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>, output: &mut Vec<u8>) -> Poll<io::Result<()>> {
        if !self.unsent.is_empty() {
            self.unsent.append(output);
            std::mem::swap(&mut self.unsent, output);
            self.unsent = Vec::new();
        }
        let mut written = 0;
        while written < output.len() {
            match Pin::new(&mut self.stream).poll_write(context, &output[written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => {
                    written += length;
                    self.active = Instant::now();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent = output[written..].to_vec();
                    self.stuck.get_or_insert_with(Instant::now);
                    output.clear();
                    return Poll::Pending;
                }
            }
        }
        output.clear();
        self.stuck = None;
        Poll::Ready(Ok(()))
    }

    /// Reads once and begins the queries that came.
    fn poll_read(&mut self, context: &mut Context<'_>, room: usize, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let Scratch { input, output, asking } = scratch;
        let mut buffer = ReadBuf::new(input);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let input = buffer.filled();
        let continued = self.begun.is_some();
        if self.unread.is_empty() {
            let used = self.take_queries(input, room, output, asking);
            if self.closing.is_none() {
                self.unread.extend_from_slice(&input[used..]);
            }
        } else {
            self.unread.extend_from_slice(input);
            self.take_unread(room, output, asking);
        }
        self.in_pieces = continued || self.begun.is_some();
        Poll::Ready(Ok(input.len()))
    }

    fn take_unread(&mut self, room: usize, output: &mut Vec<u8>, asking: &mut Asking) {
        let mut unread = std::mem::take(&mut self.unread);
        let used = self.take_queries(&unread, room, output, asking);
        if used < unread.len() && self.closing.is_none() {
            unread.drain(..used);
            unread.shrink_to_fit();
            self.unread = unread;
        }
    }

    /// Begins whole queries while there is room; tells how many octets were used.
    fn take_queries(&mut self, input: &[u8], mut room: usize, output: &mut Vec<u8>, asking: &mut Asking) -> usize {
        let now = Instant::now();
        let mut used = 0;
        self.more = false;
        while let Some((length, rest)) = input[used..].split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 || length > self.limits.longest_query {
                self.end(Closed::BadFrame);
                break;
            }
            let Some(query) = rest.get(..length) else { break };
            self.more = room == 0 || output.len() >= WRITE;
            if self.more {
                break;
            }
            used += 2 + length;
            match self.begin(query, now, output, asking) {
                Some(Step::Waiting) => room -= 1,
                Some(Step::ReplyOverShare) if !self.slot.who().is_loopback() => self.end(Closed::InFlight),
                Some(Step::Reply | Step::ReplyOverShare | Step::Withheld) | None => {}
                Some(Step::ReplyInvalid | Step::Ignore) => {
                    // Only what parsing refused comes here, and that has a fault.
                    self.end(Fault::of(query).map_or(Closed::BadFrame, Closed::Invalid));
                }
            }
            if self.closing.is_some() {
                break;
            }
            self.active = now;
            self.slot.used();
        }
        self.begun =
            if used == input.len() || self.more { None } else { self.begun.filter(|_| used == 0).or(Some(now)) };
        self.metrics.contained(|| self.resolver.flush(asking));
        used
    }

    /// Begins one query; its reply, if there is one now, goes into the buffer behind its length.
    fn begin(&self, query: &[u8], now: Instant, output: &mut Vec<u8>, asking: &mut Asking) -> Option<Step> {
        let start = output.len();
        output.extend([0; 2]);
        let recipient = || Recipient::Stream(self.outbox.owe());
        let step = self.metrics.contained(|| self.resolver.begin(query, self.sender, now, output, asking, recipient));
        let length = u16::try_from(output.len() - start - 2).ok();
        match (&step, length) {
            (Some(Step::Reply | Step::ReplyInvalid | Step::ReplyOverShare), Some(length)) => {
                output[start..start + 2].copy_from_slice(&length.to_be_bytes());
            }
            _ => output.truncate(start),
        }
        step
    }
}
