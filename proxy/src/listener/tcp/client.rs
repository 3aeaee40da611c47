//! One TCP client: what it sent is read at one go, what it is owed is written at one go.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::Metrics;
use crate::replies::{Recipient, StreamOutbox, Streams};
use crate::resolve::{Asking, Protocol, Resolver, Step};

/// A client that sends no query for so long, and is owed nothing, is let go (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(30);

/// A client that takes nothing of what it is owed for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Queries of one client in flight; it is not read from until there are fewer.
const IN_FLIGHT: usize = 256;

/// Longest query, in octets: far more than a question with EDNS options takes.
const LONGEST_QUERY: usize = 4096;

/// Octets read at one go.
const READ: usize = 8 << 10;

/// Once so many octets of replies are ready they are written before more queries are looked at.
const WRITE: usize = 16 << 10;

/// Buffers for whichever client is being served by a thread.
pub(super) struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
    asking: Asking,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// The client left.
    Left,
    /// The client sent something that is no query.
    Invalid,
    /// The client sent nothing for long.
    Idle,
    /// The client did not read what it was owed.
    Slow,
    /// The connection failed.
    Failed,
    /// The proxy stops.
    Stopped,
}

/// A connected client.
pub(super) struct Client {
    stream: TcpStream,
    outbox: Arc<StreamOutbox>,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    /// Input that ends in the middle of a query, or for which there was no room yet.
    unread: Vec<u8>,
    /// Whether there is a whole query in it.
    more: bool,
    /// Replies that the client has not taken yet.
    unsent: Vec<u8>,
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

impl Closed {
    /// For labels.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Invalid => "invalid",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl Client {
    pub(super) fn new(stream: TcpStream, all: Arc<Streams>, resolver: Arc<Resolver>, metrics: Metrics) -> Self {
        Self {
            stream,
            outbox: StreamOutbox::new(all),
            resolver,
            metrics,
            unread: Vec::new(),
            more: false,
            unsent: Vec::new(),
            closing: None,
            active: Instant::now(),
        }
    }

    /// Reads nothing more.
    pub(super) fn stop(&mut self) {
        self.closing.get_or_insert(Closed::Stopped);
    }

    /// When to look whether the client is still of this world, and what it is if that time has come.
    pub(super) fn due(&self, now: Instant) -> (Instant, Closed) {
        if !self.unsent.is_empty() {
            (self.active + WRITE_TIMEOUT, Closed::Slow)
        } else if self.outbox.in_flight() > 0 {
            (now + IDLE, Closed::Idle) // an answer or a failure will come first
        } else {
            (self.active + IDLE, Closed::Idle)
        }
    }

    /// Gives the connection back; nothing is owed any more.
    pub(super) fn into_stream(self) -> TcpStream {
        self.outbox.close();
        self.stream
    }

    /// Reads and writes as far as it can be done now; ready when the connection is to be closed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Closed> {
        scratch.output.clear(); // what a panic may have left
        let polled = self.advance(context, scratch);
        scratch.output.clear();
        scratch.output.shrink_to(4 * WRITE);
        if polled.is_pending() && !self.outbox.keep_aside(self.unread.len() + self.unsent.len()) {
            return Poll::Ready(Closed::Slow);
        }
        polled
    }

    fn advance(&mut self, context: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Closed> {
        loop {
            let most = if self.closing.is_some() { 1 } else { IN_FLIGHT };
            let owed = self.outbox.collect(context.waker(), most, &mut scratch.output);
            if owed.overrun {
                return Poll::Ready(Closed::Slow);
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
            let room = IN_FLIGHT - owed.in_flight;
            if self.more {
                self.take_unread(room, &mut scratch.output, &mut scratch.asking);
                continue;
            }
            match ready!(self.poll_read(context, room, scratch)) {
                Ok(0) => self.closing = Some(Closed::Left),
                Ok(_) => {}
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
                    output.clear();
                    return Poll::Pending;
                }
            }
        }
        output.clear();
        Poll::Ready(Ok(()))
    }

    /// Reads once and begins the queries that came.
    fn poll_read(&mut self, context: &mut Context<'_>, room: usize, scratch: &mut Scratch) -> Poll<io::Result<usize>> {
        let Scratch { input, output, asking } = scratch;
        let mut buffer = ReadBuf::new(input);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let input = buffer.filled();
        if self.unread.is_empty() {
            let used = self.take_queries(input, room, output, asking);
            if self.closing.is_none() {
                self.unread.extend_from_slice(&input[used..]);
            }
        } else {
            self.unread.extend_from_slice(input);
            self.take_unread(room, output, asking);
        }
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
            if length > LONGEST_QUERY {
                self.closing = Some(Closed::Invalid);
                break;
            }
            let Some(query) = rest.get(..length) else { break };
            self.more = room == 0 || output.len() >= WRITE;
            if self.more {
                break;
            }
            used += 2 + length;
            self.active = now;
            match self.begin(query, now, output, asking) {
                Some(Step::Waiting) => room -= 1,
                Some(Step::Reply) | None => {}
                Some(Step::ReplyInvalid | Step::Ignore) => {
                    self.closing = Some(Closed::Invalid);
                    break;
                }
            }
        }
        self.metrics.contained(|| self.resolver.flush(asking));
        used
    }

    /// Begins one query; its reply, if there is one now, goes into the buffer behind its length.
    fn begin(&self, query: &[u8], now: Instant, output: &mut Vec<u8>, asking: &mut Asking) -> Option<Step> {
        let start = output.len();
        output.extend([0; 2]);
        let recipient = || Recipient::Stream(self.outbox.owe());
        let step = self.metrics.contained(|| self.resolver.begin(query, Protocol::Tcp, now, output, asking, recipient));
        let length = u16::try_from(output.len() - start - 2).ok();
        match (&step, length) {
            (Some(Step::Reply | Step::ReplyInvalid), Some(length)) => {
                output[start..start + 2].copy_from_slice(&length.to_be_bytes());
            }
            _ => output.truncate(start),
        }
        step
    }
}
