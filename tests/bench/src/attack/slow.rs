//! Slow loris: each connection sends a query that is right, one octet at a time, and another when that one is whole.

use std::io::{self, Write};
use std::time::Duration;

use super::Report;
use super::crowd::{Conduct, Member};
use crate::zone::Names;

pub(super) struct Slow {
    query: Vec<u8>,
}

impl Slow {
    pub(super) fn new() -> Self {
        let mut query = vec![0, 0];
        Names::Lasting { first: 0, count: 1 }.query(0, 0x510e, &mut query);
        let length = u16::try_from(query.len() - 2).expect("a question is short");
        query[..2].copy_from_slice(&length.to_be_bytes());
        Self { query }
    }
}

impl Conduct for Slow {
    const READS: bool = true;
    const PAUSE: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(100);

    fn act(&mut self, member: &mut Member, report: &mut Report) -> io::Result<()> {
        let Some(stream) = &mut member.stream else { return Ok(()) };
        let octet = self.query[member.progress % self.query.len()];
        stream.write_all(&[octet])?;
        member.progress += 1;
        report.sent += 1;
        report.octets += 1;
        Ok(())
    }
}
