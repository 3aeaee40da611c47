//! A server reached by plain DNS: cluster DNS, and whatever else a route names.
//!
//! Each attempt has a fresh socket, port, id and letter case, all of which a forger must guess (RFC 5452), and a connected
//! socket would stick to a cluster DNS pod that is gone. What does not fit them is counted, and the answer waited for all
//! the same. UDP is asked again every 250 ms; TCP follows when the answer did not fit, when UDP stays silent, or when the
//! server did not repeat the question in the letters that it was asked in: some do not keep them, and forgers cannot.

mod forgery;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::forgery::{Stray, in_random_case, judge};
pub use self::forgery::{StrayLabels, Strays};
use super::cause::Cause;
use super::connection::{Connection, Query};
use crate::wire::query::{self, Privacy};
use crate::wire::request::{Asked, Question};
use crate::wire::{self, flag};

/// How long an attempt may stay silent before the next one starts beside it.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How long an answer over TCP is waited for; the query's own deadline comes first.
const PATIENCE_OVER_TCP: Duration = Duration::from_secs(60);

/// Longest UDP answer: more than we ask for, so that a server which ignores that is heard too.
const LONGEST: usize = 4096;

/// A server of plain DNS.
#[derive(Debug, Clone)]
pub struct Plain {
    server: SocketAddr,
}

enum Over {
    Udp,
    Tcp,
}

enum Heard {
    Answer(Vec<u8>),
    Truncated,
    /// It may be forged.
    Doubtful,
}

impl Plain {
    /// The server at an address.
    pub fn new(server: SocketAddr) -> Self {
        Self { server }
    }

    /// Asks again and again, until an answer comes or the deadline has passed; the cause is then the last that was seen.
    pub async fn exchange(
        &self,
        asked: Asked,
        question: Question<'_>,
        deadline: Instant,
        strays: &Strays,
    ) -> Result<Vec<u8>, Cause> {
        let mut attempts = JoinSet::new();
        let mut turn = 0;
        let (mut truncated, mut doubted) = (false, false);
        let mut cause = Cause::QueryTimedOut;
        let mut again = tokio::time::interval(AGAIN_AFTER);
        let ask = |over| attempt(self.server, over, asked, question.as_bytes().into(), strays.clone());
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Err(cause),
                _ = again.tick() => {
                    if let Some(over) = attempt_at(turn, truncated) {
                        attempts.spawn(ask(over));
                    }
                    turn += 1;
                }
                Some(finished) = attempts.join_next(), if !attempts.is_empty() => match finished {
                    Ok(Ok(Heard::Answer(answer))) => return Ok(answer),
                    Ok(Ok(Heard::Truncated)) => {
                        truncated = true;
                        attempts.spawn(ask(Over::Tcp));
                    }
                    // Once: whoever forges many answers is not to make us connect for each.
                    Ok(Ok(Heard::Doubtful)) => {
                        if !std::mem::replace(&mut doubted, true) {
                            attempts.spawn(ask(Over::Tcp));
                        }
                    }
                    // Without a route there is nothing to wait for.
                    Ok(Err(Cause::NetworkUnreachable)) => return Err(Cause::NetworkUnreachable),
                    // A refusal may pass: cluster DNS moves, and its address has no endpoint for a moment.
                    Ok(Err(failed)) => cause = failed,
                    Err(panicked) if panicked.is_panic() => std::panic::resume_unwind(panicked.into_panic()),
                    Err(_) => {}
                },
            }
        }
    }
}

/// The attempt that starts at the n-th turn: three over UDP, one over TCP, then half as often, every fourth over TCP.
fn attempt_at(turn: u32, truncated: bool) -> Option<Over> {
    match turn {
        _ if turn > 3 && turn.is_multiple_of(2) => None,
        _ if turn % 8 == 3 || (truncated && turn > 3) => Some(Over::Tcp),
        _ if truncated => None,
        _ => Some(Over::Udp),
    }
}

async fn attempt(
    server: SocketAddr,
    over: Over,
    asked: Asked,
    question: Box<[u8]>,
    strays: Strays,
) -> Result<Heard, Cause> {
    match over {
        Over::Udp => ask_udp(server, asked, &question, &strays).await.map_err(|error| Cause::of_connecting(&error)),
        Over::Tcp => ask_tcp(server, asked, &question).await,
    }
}

async fn ask_udp(server: SocketAddr, asked: Asked, question: &[u8], strays: &Strays) -> io::Result<Heard> {
    let sent = in_random_case(Question::starting(question).ok_or(io::ErrorKind::InvalidInput)?);
    let sent = Question::starting(&sent).ok_or(io::ErrorKind::InvalidInput)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut message = Vec::with_capacity(LONGEST);
    let id = super::random_id();
    query::write(&mut message, id, asked, sent, Privacy::Plain);
    socket.send(&message).await?;
    loop {
        message.resize(LONGEST, 0);
        let length = socket.recv(&mut message).await?;
        message.truncate(length);
        match judge(&message, id, sent) {
            Ok(()) => {
                let truncated = wire::read_u16(&message, 2).unwrap_or_default() & flag::TC != 0;
                return Ok(if truncated { Heard::Truncated } else { Heard::Answer(message) });
            }
            Err(stray) => {
                strays.note(stray);
                if stray == Stray::Case {
                    return Ok(Heard::Doubtful);
                }
            }
        }
    }
}

async fn ask_tcp(server: SocketAddr, asked: Asked, question: &[u8]) -> Result<Heard, Cause> {
    let stream = TcpStream::connect(server).await.map_err(|error| Cause::of_connecting(&error))?;
    let question = Question::starting(question).ok_or(Cause::ResponseMalformed)?;
    let (connection, driver) = Connection::open(stream, Privacy::Plain, Arc::default(), PATIENCE_OVER_TCP);
    let query = Query { asked, question, until: Instant::now() + PATIENCE_OVER_TCP };
    let asking = async {
        let answered = connection.ask(query).await?.ok_or(Cause::ConnectionClosed)?;
        answered.message().await.map(|(message, _)| Heard::Answer(message))
    };
    tokio::select! {
        biased;
        heard = asking => heard,
        _ = driver => Err(Cause::ConnectionClosed),
    }
}
