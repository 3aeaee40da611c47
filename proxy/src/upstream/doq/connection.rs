//! One QUIC connection (RFC 9000), a stream for each query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::TlsServer;
use quinn::{ConnectionError, Endpoint, ReadError, ReadToEndError, RecvStream, VarInt, WriteError};
use tokio::time::{Instant, timeout};

use super::super::cause::Cause;
use super::super::health::Health;
use super::super::kept::{Ended, Link, Open, Opened, Opening, Usage};
use super::handshake::Handshake;
use super::socket;

/// A server that has not finished the handshake by then is tried no longer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long the end of a connection that nobody needs may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// The longest message, with its length before it.
const LONGEST: usize = 2 + 65_535;

/// RFC 9250 §4.3: why a stream or a connection ends.
const DOQ_NO_ERROR: VarInt = VarInt::from_u32(0);
const DOQ_PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const DOQ_REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
const DOQ_EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// Reaches a server by QUIC.
pub(super) struct OverQuic {
    pub(super) handshake: Arc<Handshake>,
    pub(super) server: TlsServer,
}

/// A handle to an open connection.
#[derive(Clone)]
pub(super) struct Connection {
    connection: quinn::Connection,
    usage: Arc<Usage>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The connection ended before the query was sent.
    NotSent,
    /// The connection ended.
    Connection,
    /// The server gave up this stream.
    Stream,
    /// The server says that it has too much to do.
    Busy,
    /// What came is not one message with its length before it.
    Malformed,
}

/// The stream of a query whose answer somebody waits for. Dropping it tells the server that nobody does any more.
struct Waiting(RecvStream);

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == DOQ_EXCESSIVE_LOAD => Self::Busy,
            _ => Self::Connection,
        }
    }
}

impl From<WriteError> for Lost {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::Stopped(DOQ_EXCESSIVE_LOAD) => Self::Busy,
            _ => Self::Stream,
        }
    }
}

impl From<ReadToEndError> for Lost {
    fn from(error: ReadToEndError) -> Self {
        match error {
            ReadToEndError::TooLong => Self::Malformed,
            ReadToEndError::Read(ReadError::ConnectionLost(error)) => error.into(),
            ReadToEndError::Read(ReadError::Reset(DOQ_EXCESSIVE_LOAD)) => Self::Busy,
            ReadToEndError::Read(_) => Self::Stream,
        }
    }
}

impl Open for OverQuic {
    type Connection = Connection;

    fn open(&self, health: Arc<Health>, idle: Duration) -> Opening<'_, Connection> {
        Box::pin(async move {
            let opening = timeout(TIMEOUT, self.connect(idle)).await;
            let (endpoint, connection) = opening.unwrap_or(Err(Cause::ConnectionTimedOut))?;
            let connection = Connection { connection, usage: Usage::new(health) };
            let driver = Box::pin(drive(endpoint, connection.clone(), idle));
            Ok(Opened { connection, driver })
        })
    }
}

impl OverQuic {
    /// Each connection has a socket of its own, which goes with it.
    async fn connect(&self, idle: Duration) -> Result<(Endpoint, quinn::Connection), Cause> {
        let address = self.server.address;
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let endpoint = socket::endpoint((any, 0).into()).map_err(|error| Cause::of_connecting(&error))?;
        let connection = self.handshake.with_server(&endpoint, &self.server, idle).await?;
        Ok((endpoint, connection))
    }
}

/// Waits for the end of the connection, or brings it about when nobody has asked for long.
async fn drive(endpoint: Endpoint, connection: Connection, idle: Duration) -> Ended {
    let ended = tokio::select! {
        _ = connection.connection.closed() => Ended::Broken,
        () = connection.usage.idle_for(idle) => Ended::Idle,
        () = connection.usage.finished() => Ended::Idle,
    };
    connection.usage.cut_short();
    if ended == Ended::Idle {
        connection.connection.close(DOQ_NO_ERROR, b"");
        // The packet that says so has to leave. Whether it arrives is the server's affair, and nobody waits for it here.
        tokio::spawn(async move { timeout(GOODBYE, endpoint.wait_idle()).await });
    }
    ended
}

impl Connection {
    /// Sends a query, with its length before it, and waits for its answer; `asked` is called when it is sent. Dropping the
    /// future gives it up.
    pub(super) async fn exchange(&self, query: &[u8], asked: &impl Fn()) -> Result<(Vec<u8>, Duration), Lost> {
        let _in_flight = self.usage.asks().await;
        if self.usage.is_finishing() {
            return Err(Lost::NotSent);
        }
        let answered = self.send_and_receive(query, asked).await;
        match answered {
            Ok(_) => self.usage.answered(),
            Err(Lost::Connection) => self.usage.cut_short(),
            Err(_) => {}
        }
        answered
    }

    async fn send_and_receive(&self, query: &[u8], asked: &impl Fn()) -> Result<(Vec<u8>, Duration), Lost> {
        // Waits for room where the server allows no more streams at once.
        let (mut sending, receiving) = self.connection.open_bi().await.map_err(|_| Lost::NotSent)?;
        let mut waiting = Waiting(receiving);
        let sent_at = Instant::now();
        sending.write_all(query).await?;
        // RFC 9250 §4.2: the end of the stream says that no more is asked on it. It cannot have ended before.
        let _ = sending.finish();
        asked();
        let framed = waiting.0.read_to_end(LONGEST).await?;
        Ok((message_in(framed).ok_or(Lost::Malformed)?, sent_at.elapsed()))
    }

    /// RFC 9250 §4.3.3: who breaks the protocol is told so by the end of the connection.
    pub(super) fn ends_for_protocol_error(&self) {
        self.connection.close(DOQ_PROTOCOL_ERROR, b"");
    }
}

/// The one message in what came.
fn message_in(mut framed: Vec<u8>) -> Option<Vec<u8>> {
    let (length, message) = framed.split_first_chunk()?;
    if usize::from(u16::from_be_bytes(*length)) != message.len() {
        return None;
    }
    framed.drain(..2);
    Some(framed)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.stop(DOQ_REQUEST_CANCELLED); // a stream that was read to its end needs no stop
    }
}

impl Link for Connection {
    fn is_closed(&self) -> bool {
        self.usage.is_finishing() || self.connection.close_reason().is_some()
    }

    fn is(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    fn was_asked(&self) -> bool {
        self.usage.was_asked()
    }

    fn has_answered(&self) -> bool {
        self.usage.has_answered()
    }

    fn finish(&self) {
        self.usage.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_must_be_one_message_and_nothing_else() {
        assert_eq!(message_in(vec![0, 3, 1, 2, 3]), Some(vec![1, 2, 3]));
        assert_eq!(message_in(vec![0, 0]), Some(vec![]));
        for wrong in [&[][..], &[0], &[0, 3, 1, 2], &[0, 1, 1, 2]] {
            assert_eq!(message_in(wrong.to_vec()), None, "{wrong:?}");
        }
    }
}
