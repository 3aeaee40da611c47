//! A server reached by DNS over QUIC (RFC 9250): every query a stream of one connection.
//!
//! Sessions are resumed, without 0-RTT: what is sent so could be replayed to learn what was asked. A change of the client's
//! address on the way (NAT) is QUIC's affair, and nobody here notices.

mod connection;
mod handshake;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::TlsServer;
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, Lost, OverQuic};
use self::handshake::Handshake;
use super::cause::Cause;
use super::connect::Tls;
use super::connection::Query;
use super::kept::{Kept, Standby, Which};
use crate::wire::query::{self, Privacy};
use crate::wire::{self, response};

/// How long a server that is busy is left alone.
const BUSY: Duration = Duration::from_secs(1);

/// How often a query is put into a stream when the server resets it.
const STREAMS: usize = 3;

/// A server, and the connection to it if there is one.
#[derive(Clone)]
pub struct Doq {
    kept: Kept<Connection>,
}

impl Doq {
    /// A server that is not yet connected to. A connection without queries for `idle` is closed.
    pub fn new(tls: &Tls, server: &TlsServer, idle: Duration) -> Self {
        let open = OverQuic { handshake: Arc::new(Handshake::with(tls)), server: server.clone() };
        Self { kept: Kept::new(open, idle) }
    }

    /// The connection that is kept.
    pub fn standby(&self) -> &dyn Standby {
        &self.kept
    }

    /// Asks, and waits for the answer and how long it took; `asked` is called whenever a query is sent.
    pub async fn exchange(
        &self,
        query: Query<'_>,
        which: Which,
        asked: impl Fn(),
    ) -> Result<(Vec<u8>, Duration), Cause> {
        // RFC 9250 §4.2: the length before the message, and id 0.
        let mut framed = vec![0, 0];
        query::write(&mut framed, 0, query.asked, query.question, Privacy::Multiplexed);
        let length = u16::try_from(framed.len() - 2).expect("a query is a few hundred octets");
        framed[..2].copy_from_slice(&length.to_be_bytes());
        let mut resets = 0;
        loop {
            let connection = self.kept.connection_until(which, query.until).await?;
            let exchanged = timeout_at(query.until, connection.exchange(&framed, &asked)).await;
            match exchanged.map_err(|_| Cause::QueryTimedOut)? {
                Ok((message, _)) if wire::id(&message) != Some(0) => {
                    connection.ends_for_protocol_error();
                    return Err(self.fails(Cause::ResponseMalformed));
                }
                Ok((message, _)) if !response::answers(&message, query.question) => {
                    return Err(self.fails(Cause::ResponseMalformed));
                }
                Ok(answered) => return Ok(answered),
                Err(Lost::NotSent) => {}
                Err(Lost::Stream) => {
                    resets += 1;
                    if resets == STREAMS {
                        return Err(self.fails(Cause::StreamReset));
                    }
                }
                Err(Lost::Busy) => {
                    let now = Instant::now();
                    self.kept.health().asked_to_wait(Cause::ServerBusy, now + BUSY, now);
                    return Err(Cause::ServerBusy);
                }
                Err(Lost::Malformed) => {
                    connection.ends_for_protocol_error();
                    return Err(self.fails(Cause::ResponseMalformed));
                }
                Err(Lost::Connection) => return Err(Cause::ConnectionClosed),
            }
        }
    }

    fn fails(&self, cause: Cause) -> Cause {
        self.kept.health().failed(cause, Instant::now());
        cause
    }
}
