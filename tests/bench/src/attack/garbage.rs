//! What is no query: random octets, queries with an octet changed or their end missing, counts that cannot be, replies.

use std::io::{self, Write};
use std::time::Duration;

use super::crowd::{Conduct, Member};
use super::flood::Messages;
use super::{Random, Report};
use crate::zone::Names;

/// How many messages are made before the attack begins: making them would take longer than sending them.
const MADE: usize = 4_096;

/// Garbage over UDP.
pub(super) struct Datagrams {
    messages: Vec<Vec<u8>>,
    next: usize,
}

/// Garbage over TCP: one connection has true lengths before each message, the next has none.
pub(super) struct Streams {
    messages: Vec<Vec<u8>>,
    next: usize,
}

fn message(random: &mut Random) -> Vec<u8> {
    let mut query = Vec::new();
    Names::Lasting { first: 0, count: 100 }.query(random.next(), 0x6a5b, &mut query);
    let (at, value) = (random.below(query.len()), random.next().to_ne_bytes()[0]);
    match random.below(5) {
        0 => {
            query = vec![0; 1 + random.below(512)];
            random.fill(&mut query);
        }
        // Counts that nothing follows, a pointer to itself, a reply, a piece.
        1 => query[4..12].copy_from_slice(&[0xff; 8]),
        2 => query[12..14].copy_from_slice(&[0xc0, 12]),
        3 => query[2] = 0x80 | value,
        _ => query.truncate(at),
    }
    query
}

impl Datagrams {
    pub(super) fn new() -> Self {
        let mut random = Random::new();
        Self { messages: (0..MADE).map(|_| message(&mut random)).collect(), next: 0 }
    }
}

impl Messages for Datagrams {
    fn next(&mut self) -> &[u8] {
        self.next = (self.next + 1) % self.messages.len();
        &self.messages[self.next]
    }
}

impl Streams {
    pub(super) fn new() -> Self {
        let mut random = Random::new();
        let framed = |index: usize| {
            let message = message(&mut random);
            let length = u16::try_from(message.len()).expect("garbage is short").to_be_bytes();
            if index.is_multiple_of(2) { [&length[..], &message].concat() } else { message }
        };
        Self { messages: (0..MADE).map(framed).collect(), next: 0 }
    }
}

impl Conduct for Streams {
    const READS: bool = false;
    const PAUSE: Duration = Duration::ZERO;
    const EVERY: Duration = Duration::ZERO;

    fn act(&mut self, member: &mut Member, report: &mut Report) -> io::Result<()> {
        let Some(stream) = &mut member.stream else { return Ok(()) };
        self.next = (self.next + 1) % self.messages.len();
        let octets = stream.write(&self.messages[self.next])?;
        report.sent += 1;
        report.octets += octets as u64;
        Ok(())
    }
}
