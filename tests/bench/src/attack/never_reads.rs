//! Connections that ask for cached names as fast as the server takes it, and never read a reply.

use std::io::{self, Write};
use std::time::Duration;

use super::Report;
use super::crowd::{Conduct, Member};
use crate::zone::Names;

/// How many queries there are in a row, before the first comes again.
const QUERIES: u16 = 1_000;

pub(super) struct NeverReads {
    queries: Vec<u8>,
}

impl NeverReads {
    pub(super) fn new() -> Self {
        let (names, mut queries) = (Names::Lasting { first: 0, count: 100 }, Vec::new());
        for id in 0..QUERIES {
            let start = queries.len();
            queries.extend_from_slice(&[0, 0]);
            names.query(u64::from(id), id, &mut queries);
            let length = u16::try_from(queries.len() - start - 2).expect("a question is short");
            queries[start..start + 2].copy_from_slice(&length.to_be_bytes());
        }
        Self { queries }
    }
}

impl Conduct for NeverReads {
    const READS: bool = false;
    const PAUSE: Duration = Duration::ZERO;
    const EVERY: Duration = Duration::from_millis(1);

    fn act(&mut self, member: &mut Member, report: &mut Report) -> io::Result<()> {
        let Some(stream) = &mut member.stream else { return Ok(()) };
        let octets = stream.write(&self.queries[member.progress..])?;
        member.progress = (member.progress + octets) % self.queries.len();
        report.sent += 1;
        report.octets += octets as u64;
        Ok(())
    }
}
