//! One lookup, and the next.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::Lookups;
use crate::histogram::Histogram;
use crate::zone::{self, Names};

/// How long a lookup over TCP may take, as of glibc.
const PATIENCE: Duration = Duration::from_secs(5);

/// Over what is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    Udp,
    Kept,
    Fresh,
}

/// A program that looks up names.
pub(super) struct Asker {
    server: SocketAddrV4,
    how: How,
    retry: Duration,
    tries: u32,
    /// The connection that stays, once it is there.
    kept: Option<TcpStream>,
    query: Vec<u8>,
    pub(super) tally: Tally,
}

/// How its lookups fared.
pub(super) struct Tally {
    histogram: Histogram,
    lookups: Lookups,
}

/// What came of a try.
enum Reply {
    Right,
    Wrong,
    /// Cut short: the whole is to be had over TCP (RFC 7766, 5).
    Truncated,
    /// An error's code, or nothing in time.
    None,
}

impl Asker {
    pub(super) fn new(server: SocketAddrV4, how: How, retry: Duration, tries: u32) -> Self {
        let tally = Tally { histogram: Histogram::new(), lookups: Lookups::default() };
        Self { server, how, retry, tries, kept: None, query: Vec::new(), tally }
    }

    /// Looks up the `index`th name, until it is known or given up.
    pub(super) fn look_up(&mut self, names: &Names, index: u64) {
        let began = Instant::now();
        self.query.clear();
        // Any id will do that is not the last one's.
        let id = u16::try_from(index.wrapping_mul(0x9e37) & 0xffff).unwrap_or(0);
        let number = names.query(index, id, &mut self.query);
        self.tally.lookups.asked += 1;
        let reply = match self.how {
            How::Udp => self.over_udp(number),
            How::Kept | How::Fresh => self.over_tcp(number),
        };
        let lookups = &mut self.tally.lookups;
        match reply {
            Ok(Reply::Right) => {
                lookups.answered += 1;
                self.tally.histogram.add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            Ok(Reply::Wrong) => lookups.wrong += 1,
            Ok(Reply::Truncated | Reply::None) => lookups.unresolved += 1,
            Err(_) => {
                lookups.unresolved += 1;
                lookups.broken += u64::from(!matches!(self.how, How::Udp));
            }
        }
    }

    /// From a socket of its own, as a C library does; sent again after a while, or after an error's.
    fn over_udp(&mut self, number: u64) -> io::Result<Reply> {
        let socket = UdpSocket::bind((*self.server.ip(), 0))?;
        socket.connect(self.server)?;
        let mut buffer = [0; 2048];
        for tried in 0..self.tries {
            let deadline = Instant::now() + self.retry;
            socket.send(&self.query)?;
            while let Some(left) = left_until(deadline) {
                socket.set_read_timeout(Some(left))?;
                let Ok(octets) = socket.recv(&mut buffer) else { break };
                match self.judge(&buffer[..octets], number) {
                    // Wait for the time to pass: what failed just now would fail again.
                    Reply::None => {}
                    Reply::Right => {
                        self.tally.lookups.again += u64::from(tried > 0);
                        return Ok(Reply::Right);
                    }
                    Reply::Truncated => {
                        self.tally.lookups.again += 1;
                        return self.over_tcp(number);
                    }
                    Reply::Wrong => return Ok(Reply::Wrong),
                }
            }
        }
        Ok(Reply::None)
    }

    fn over_tcp(&mut self, number: u64) -> io::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        let mut stream = match self.usable() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&SocketAddr::V4(self.server), PATIENCE)?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let length = u16::try_from(self.query.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &self.query[..]].concat())?;
        let mut head = [0; 2];
        read(&mut stream, &mut head, deadline)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(head))];
        read(&mut stream, &mut reply, deadline)?;
        let judged = self.judge(&reply, number);
        if matches!(self.how, How::Kept) {
            self.kept = Some(stream);
        }
        Ok(judged)
    }

    /// The connection that stayed, unless the server has ended it since: that is its right (RFC 7766, 6.2.3), and noticed before
    /// anything is asked on it.
    fn usable(&mut self) -> Option<TcpStream> {
        let stream = self.kept.take()?;
        let _ = stream.set_nonblocking(true);
        let nothing = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let _ = stream.set_nonblocking(false);
        self.tally.lookups.ended += u64::from(!nothing);
        nothing.then_some(stream)
    }

    fn judge(&self, reply: &[u8], number: u64) -> Reply {
        match reply.first_chunk::<4>() {
            Some(head) if head[..2] != self.query[..2] => Reply::None,
            Some(head) if head[3] & 15 != 0 => Reply::None,
            Some(head) if head[2] & 2 != 0 => Reply::Truncated,
            Some(_) if zone::answers(reply, number) => Reply::Right,
            Some(_) => Reply::Wrong,
            None => Reply::None,
        }
    }
}

impl Tally {
    /// All together.
    pub(super) fn sum(tallies: &[Self]) -> Lookups {
        let (mut sum, mut histogram) = (Lookups::default(), Histogram::new());
        for tally in tallies {
            let Lookups { asked, answered, again, unresolved, wrong, broken, ended, .. } = tally.lookups;
            sum.asked += asked;
            sum.answered += answered;
            sum.again += again;
            sum.unresolved += unresolved;
            sum.wrong += wrong;
            sum.broken += broken;
            sum.ended += ended;
            histogram.merge(&tally.histogram);
        }
        let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        sum.p50 = milliseconds(histogram.per_mille(500));
        sum.p99 = milliseconds(histogram.per_mille(990));
        sum.most = milliseconds(histogram.most());
        sum
    }
}

fn left_until(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Reads all of it, or fails at the deadline.
fn read(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut at = 0;
    while at < buffer.len() {
        let left = left_until(deadline).ok_or(io::ErrorKind::TimedOut)?;
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer[at..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(octets) => at += octets,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
