//! One client of the upstream.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use crate::zone;

/// How many reads one client gets before it is the next one's turn.
const TURN: usize = 8;

/// A TLS connection, and what is owed on it.
pub(super) struct Connection {
    stream: TcpStream,
    tls: ServerConnection,
    unread: Vec<u8>,
    answers: Vec<u8>,
    held_back: VecDeque<(Instant, Vec<u8>)>,
    watched_writable: bool,
}

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ended {
    ByClient,
    Error,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, tls: &Arc<ServerConfig>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut tls = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        let (unread, answers) = (Vec::new(), Vec::new());
        Ok(Self { stream, tls, unread, answers, held_back: VecDeque::new(), watched_writable: false })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// True once when what must be watched is another than before.
    pub(super) fn writability_changed(&mut self) -> bool {
        let changed = self.watched_writable != self.wants_write();
        self.watched_writable = self.wants_write();
        changed
    }

    /// Reads what has come and answers it, after `delay`; tells how many queries there were.
    pub(super) fn serve(&mut self, delay: Duration) -> Result<u64, Ended> {
        self.read()?;
        let (mut at, mut queries) = (0, 0);
        while let Some(length) = self.unread[at..].first_chunk().map(|two| usize::from(u16::from_be_bytes(*two))) {
            let Some(query) = self.unread.get(at + 2..at + 2 + length) else { break };
            let answered = zone::answer(query, &mut self.answers);
            queries += u64::from(answered);
            at += 2 + length;
            // Answers that took their time come one by one, as those of a resolver do: each in a record of its own.
            if answered && !delay.is_zero() {
                self.held_back.push_back((Instant::now() + delay, std::mem::take(&mut self.answers)));
            }
        }
        self.unread.drain(..at);
        if !self.answers.is_empty() {
            self.tls.writer().write_all(&self.answers).map_err(|_| Ended::Error)?;
            self.answers.clear();
        }
        self.write()?;
        Ok(queries)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held_back.front().map(|(due, _)| *due)
    }

    /// Sends the answers that were held back until now.
    pub(super) fn deliver(&mut self, now: Instant) -> Result<(), Ended> {
        while self.next_due().is_some_and(|due| due <= now) {
            if let Some((_, answers)) = self.held_back.pop_front() {
                self.tls.writer().write_all(&answers).map_err(|_| Ended::Error)?;
            }
        }
        self.write()
    }

    fn read(&mut self) -> Result<(), Ended> {
        for _ in 0..TURN {
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(Ended::ByClient),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ended::Error),
            }
            let Ok(state) = self.tls.process_new_packets() else {
                // The alert tells the client why.
                let _ = self.tls.write_tls(&mut self.stream);
                return Err(Ended::Error);
            };
            let before = self.unread.len();
            self.unread.resize(before + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.unread[before..]).map_err(|_| Ended::Error)?;
            if state.peer_has_closed() {
                return Err(Ended::ByClient);
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Ended> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Ended::Error),
            }
        }
        Ok(())
    }
}
