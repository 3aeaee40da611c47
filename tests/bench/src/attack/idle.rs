//! Connections on which nothing is ever asked.

use std::io;
use std::time::Duration;

use super::Report;
use super::crowd::{Conduct, Member};

pub(super) struct Idle;

impl Conduct for Idle {
    const READS: bool = true;
    const PAUSE: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_secs(1);

    fn act(&mut self, _: &mut Member, _: &mut Report) -> io::Result<()> {
        Ok(())
    }
}
