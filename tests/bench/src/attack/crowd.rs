//! Many TCP connections to one server: opened as fast as it goes, and another for each that the server has ended. What they do
//! is spread over time, as of clients that know nothing of each other: in one burst they would take the processor from the
//! good client, whatever the server did.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use super::{Bounds, Report};
use crate::failure::{During, Outcome};
use crate::system::{self, Readiness, network};

/// How often connections are opened, and how many at once: 20,000 a second.
const TICK: Duration = Duration::from_millis(1);
const AT_ONCE: usize = 20;

/// What the members of a crowd do.
pub(super) trait Conduct {
    /// Whether they read what they get. Those that do not learn by writing that their connection has ended.
    const READS: bool;
    /// How long the place of a connection that was ended stays empty.
    const PAUSE: Duration;
    /// How often it is their turn; at once again when it is zero.
    const EVERY: Duration;

    /// Does what a member does when it is its turn. An error ends its connection, except that it would block.
    fn act(&mut self, member: &mut Member, report: &mut Report) -> io::Result<()>;
}

/// A connection, or the place of one.
pub(super) struct Member {
    pub(super) stream: Option<TcpStream>,
    /// How far it has got, in whatever it does.
    pub(super) progress: usize,
}

/// All of them.
struct Crowd<C> {
    server: SocketAddrV4,
    conduct: C,
    members: Vec<Member>,
    /// Places without a connection, and from when on there may be one, the earliest first.
    empty: VecDeque<(Instant, usize)>,
    readiness: Readiness,
    report: Report,
}

/// Holds so many connections until the end.
pub(super) fn attack(server: SocketAddrV4, members: usize, conduct: impl Conduct, bounds: Bounds) -> Outcome<Report> {
    let empty = (0..members).map(|index| (bounds.begin, index)).collect();
    let members = (0..members).map(|_| Member { stream: None, progress: 0 }).collect();
    let readiness = Readiness::new().during("epoll")?;
    Crowd { server, conduct, members, empty, readiness, report: Report::default() }.run(bounds)
}

impl<C: Conduct> Crowd<C> {
    fn run(mut self, bounds: Bounds) -> Outcome<Report> {
        let (mut next_tick, mut turns, mut ready) = (bounds.begin, 0, Vec::new());
        while !bounds.over(&self.report) {
            let now = Instant::now();
            if now >= next_tick {
                self.fill(now);
                next_tick = now + TICK;
            }
            let due = self.due(now - bounds.begin, turns);
            for turn in turns..turns + due {
                let index = turn % self.members.len();
                let acted = match self.members[index].stream {
                    Some(_) => self.conduct.act(&mut self.members[index], &mut self.report),
                    None => Ok(()),
                };
                self.settle(index, acted);
            }
            turns += due;
            let pause = if C::EVERY.is_zero() { C::EVERY } else { next_tick.saturating_duration_since(Instant::now()) };
            self.readiness.wait(pause, &mut ready).during("waiting")?;
            for &index in &ready {
                let read = self.members[index].read();
                self.settle(index, read);
            }
        }
        self.report.open = self.members.iter().filter(|member| member.is_open()).count() as u64;
        Ok(self.report)
    }

    /// Whose turn it is by now, one after the other: all of them in each span of `EVERY`, and none twice at once.
    fn due(&self, since: Duration, turns: usize) -> usize {
        let members = self.members.len();
        if C::EVERY.is_zero() {
            return members;
        }
        let by_now = since.as_nanos() * members as u128 / C::EVERY.as_nanos();
        usize::try_from(by_now).unwrap_or(usize::MAX).saturating_sub(turns).min(members)
    }

    /// Opens connections where there is none.
    fn fill(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            let Some(&(_, index)) = self.empty.front().filter(|(from, _)| *from <= now) else { return };
            // Out of ports or descriptors: another time.
            let Ok(stream) = network::begin_to_connect(self.server) else { return };
            self.empty.pop_front();
            network::reset_on_close(&stream);
            if !C::READS {
                // The kernel should not read for it what it does not.
                system::buffer(&stream, 1 << 16);
            }
            if C::READS && self.readiness.add(&stream, index).is_err() {
                self.empty.push_front((now, index));
                return;
            }
            self.members[index] = Member { stream: Some(stream), progress: 0 };
            self.report.connections += 1;
        }
    }

    /// Gives a connection up when it has ended.
    fn settle(&mut self, index: usize, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                self.report.ended += 1;
                self.members[index] = Member { stream: None, progress: 0 };
                self.empty.push_back((Instant::now() + C::PAUSE, index));
            }
            _ => {}
        }
    }
}

impl Member {
    fn read(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match stream.read(&mut [0; 4096]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            outcome => outcome.map(|_| ()),
        }
    }

    fn is_open(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.peer_addr().is_ok())
    }
}
