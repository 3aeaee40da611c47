//! Many TCP connections to one server: opened as fast as it goes, and another for each that the server has ended.

use std::io::{self, Read};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use super::{Bounds, Report};
use crate::failure::{During, Outcome};
use crate::system::{self, Readiness, network};

/// How often connections are opened, and how many at once: 20,000 a second.
const TICK: Duration = Duration::from_millis(10);
const AT_ONCE: usize = 200;

/// What the members of a crowd do.
pub(super) trait Conduct {
    /// Whether they read what they get. Those that do not learn by writing that their connection has ended.
    const READS: bool;
    /// How long the place of a connection that was ended stays empty.
    const PAUSE: Duration;
    /// How often it is their turn.
    const EVERY: Duration;

    /// Does what a member does when it is its turn. An error ends its connection, except that it would block.
    fn act(&mut self, member: &mut Member, report: &mut Report) -> io::Result<()>;
}

/// A connection, or the place of one.
pub(super) struct Member {
    pub(super) stream: Option<TcpStream>,
    /// How far it has got, in whatever it does.
    pub(super) progress: usize,
    empty_since: Option<Instant>,
}

/// All of them.
struct Crowd<C> {
    server: SocketAddrV4,
    conduct: C,
    members: Vec<Member>,
    readiness: Readiness,
    report: Report,
}

/// Holds so many connections until the end.
pub(super) fn attack(server: SocketAddrV4, members: usize, conduct: impl Conduct, bounds: Bounds) -> Outcome<Report> {
    let members = (0..members).map(|_| Member { stream: None, progress: 0, empty_since: None }).collect();
    let readiness = Readiness::new().during("epoll")?;
    Crowd { server, conduct, members, readiness, report: Report::default() }.run(bounds)
}

impl<C: Conduct> Crowd<C> {
    fn run(mut self, bounds: Bounds) -> Outcome<Report> {
        let (mut next_tick, mut next_turn, mut ready) = (Instant::now(), Instant::now(), Vec::new());
        while !bounds.over(&self.report) {
            let now = Instant::now();
            if now >= next_tick {
                self.fill(now);
                next_tick = now + TICK;
            }
            if now >= next_turn {
                next_turn = now + C::EVERY;
                for index in 0..self.members.len() {
                    let acted = match self.members[index].stream {
                        Some(_) => self.conduct.act(&mut self.members[index], &mut self.report),
                        None => Ok(()),
                    };
                    self.settle(index, acted);
                }
            }
            let pause = next_tick.min(next_turn).saturating_duration_since(Instant::now());
            self.readiness.wait(pause, &mut ready).during("waiting")?;
            for &index in &ready {
                let read = self.members[index].read();
                self.settle(index, read);
            }
        }
        self.report.open = self.members.iter().filter(|member| member.is_open()).count() as u64;
        Ok(self.report)
    }

    /// Opens connections where there is none.
    fn fill(&mut self, now: Instant) {
        let empty = |member: &Member| {
            member.stream.is_none() && member.empty_since.is_none_or(|since| now.duration_since(since) >= C::PAUSE)
        };
        let places: Vec<usize> =
            (0..self.members.len()).filter(|&index| empty(&self.members[index])).take(AT_ONCE).collect();
        for index in places {
            // Out of ports or descriptors: another time.
            let Ok(stream) = network::begin_to_connect(self.server) else { return };
            network::reset_on_close(&stream);
            if !C::READS {
                // The kernel should not read for it what it does not.
                system::buffer(&stream, 1 << 16);
            }
            if C::READS && self.readiness.add(&stream, index).is_err() {
                return;
            }
            self.members[index] = Member { stream: Some(stream), progress: 0, empty_since: None };
            self.report.connections += 1;
        }
    }

    /// Gives a connection up when it has ended.
    fn settle(&mut self, index: usize, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                self.report.ended += 1;
                self.members[index] = Member { stream: None, progress: 0, empty_since: Some(Instant::now()) };
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
