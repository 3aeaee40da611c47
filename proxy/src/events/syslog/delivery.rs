//! What was sent and what is known to have arrived, over the connections that follow each other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::outlet::{Inlet, Ledger, Numbered};
use super::frame::Header;
use crate::unacknowledged::unacknowledged;
use crate::upstream::connect::Connected;

/// What was acknowledged counts as delivered when the connection went on for so long.
const HOLD: Duration = Duration::from_secs(1);

/// How often it is seen whether more was acknowledged, while that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A collector that takes nothing for so long is gone.
const STUCK: Duration = Duration::from_secs(10);

/// Octets that are written at one go, about.
const BATCH: usize = 16 << 10;

/// A connection to a collector, with TLS or without.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// What is under it.
    fn socket(&self) -> &TcpStream;
}

/// Messages on their way.
pub(super) struct Delivery {
    header: Header,
    ledger: Arc<Ledger>,
    /// Not known to have arrived, from the oldest.
    unconfirmed: VecDeque<Sent>,
    /// How many of them, at the end, were not sent on this connection yet.
    unsent: usize,
    /// How many there may be in all.
    room: usize,
    /// Octets of messages that the system has taken on this connection.
    written: u64,
    /// When it was last seen what was acknowledged.
    looked: Instant,
}

/// How a conversation ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Everything was said.
    Finished,
    /// The collector closed in order.
    Closed,
    /// The connection failed.
    Failed(io::Error),
}

struct Sent {
    numbered: Numbered,
    /// Octets written on this connection up to its end; the most there can be if it was not sent.
    end: u64,
    at: Instant,
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for Connected {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.get_ref().get_ref()
    }
}

impl Delivery {
    /// Nothing sent yet; at most so many messages are on their way at once.
    pub(super) fn new(header: Header, ledger: Arc<Ledger>, room: usize) -> Self {
        Self { header, ledger, unconfirmed: VecDeque::new(), unsent: 0, room, written: 0, looked: Instant::now() }
    }

    /// Whether all is known to have arrived.
    pub(super) fn is_done(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// Takes a message on, to be sent.
    pub(super) fn keep(&mut self, numbered: Numbered) {
        self.unsent += 1;
        self.unconfirmed.push_back(Sent { numbered, end: u64::MAX, at: Instant::now() });
    }

    /// Sends what was not confirmed on earlier connections, then what comes, until there is no more or the connection ends.
    pub(super) async fn over(&mut self, wire: &mut dyn Wire, inlet: &mut Inlet) -> Ended {
        match self.converse(wire, inlet).await {
            Ok(ended) => ended,
            Err(error) if is_farewell(&error) => self.closed(wire),
            Err(error) => Ended::Failed(error),
        }
    }

    async fn converse(&mut self, wire: &mut dyn Wire, inlet: &mut Inlet) -> io::Result<Ended> {
        (self.written, self.unsent) = (0, self.unconfirmed.len());
        self.unconfirmed.iter_mut().for_each(|message| message.end = u64::MAX);
        loop {
            if self.is_full() {
                self.confirm(wire);
            }
            let (full, look) = (self.is_full(), self.next_look());
            let mut said = [0; 64];
            tokio::select! {
                biased; // that the collector has left comes before what it would be told
                read = wire.read(&mut said) => match read {
                    Ok(0) => return Ok(self.closed(wire)),
                    Ok(_) => {} // a collector has nothing to say
                    Err(error) => return Err(error),
                },
                // Once the runtime has looked at its sockets: what is written after a farewell is lost.
                () = yield_now(), if self.unsent > 0 => self.send(wire).await?,
                numbered = inlet.next(), if !full => match numbered {
                    Some(numbered) => self.keep(numbered),
                    None => return self.finish(wire).await,
                },
                () = sleep_until(look.unwrap_or(self.looked)), if look.is_some() => self.confirm(wire),
            }
        }
    }

    /// Writes what was not sent on this connection yet.
    async fn send(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        while self.unsent > 0 {
            let octets = self.next_batch();
            let writing = async {
                wire.write_all(&octets).await?;
                wire.flush().await
            };
            timeout(STUCK, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            // Not before: of what the system has not taken it cannot tell that it was not acknowledged.
            self.written += octets.len() as u64;
        }
        Ok(())
    }

    /// Some messages that were not sent yet, in their frames.
    fn next_batch(&mut self) -> Vec<u8> {
        let (mut octets, now) = (Vec::new(), Instant::now());
        let sent = self.unconfirmed.len() - self.unsent;
        for message in self.unconfirmed.iter_mut().skip(sent) {
            self.header.write(&message.numbered, &mut octets);
            (message.end, message.at) = (self.written + octets.len() as u64, now);
            self.unsent -= 1;
            if octets.len() >= BATCH {
                break;
            }
        }
        octets
    }

    /// Counts what has been acknowledged and held for long enough; when there is no room for more, half of it is made without
    /// holding it.
    fn confirm(&mut self, wire: &dyn Wire) {
        self.looked = Instant::now();
        let acknowledged = self.acknowledged(wire);
        let most = if self.is_full() { self.room / 2 } else { self.room };
        while let Some(sent) = self.unconfirmed.front()
            && sent.end <= acknowledged
            && (sent.at + HOLD <= self.looked || self.unconfirmed.len() > most)
        {
            self.unconfirmed.pop_front();
            self.ledger.deliver(1);
        }
    }

    /// The collector closed in order: it has read all that its machine acknowledged.
    fn closed(&mut self, wire: &dyn Wire) -> Ended {
        let acknowledged = self.acknowledged(wire);
        let before = self.unconfirmed.len();
        self.unconfirmed.retain(|sent| sent.end > acknowledged);
        self.ledger.deliver((before - self.unconfirmed.len()) as u64);
        Ended::Closed
    }

    /// Octets of messages that were surely acknowledged: with TLS more octets are on their way than those of messages.
    fn acknowledged(&self, wire: &dyn Wire) -> u64 {
        self.written.saturating_sub(unacknowledged(wire.socket()))
    }

    /// Says farewell, and waits until the collector does.
    async fn finish(&mut self, wire: &mut dyn Wire) -> io::Result<Ended> {
        self.send(wire).await?;
        wire.shutdown().await?;
        let mut said = [0; 64];
        loop {
            match wire.read(&mut said).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) if is_farewell(&error) => break,
                Err(error) => return Err(error),
            }
        }
        self.closed(wire);
        Ok(Ended::Finished)
    }

    fn is_full(&self) -> bool {
        self.unconfirmed.len() >= self.room
    }

    /// When to see what was acknowledged.
    fn next_look(&self) -> Option<Instant> {
        let again = self.looked + LOOK_AGAIN;
        let front = self.unconfirmed.front()?;
        Some(if self.is_full() { again } else { again.max(front.at + HOLD) })
    }
}

/// Whether the collector had closed in order before something else came to an end: without TLS's own farewell, or with
/// something written to it since, which is known not to be acknowledged (the system calls that a broken pipe).
fn is_farewell(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests;
