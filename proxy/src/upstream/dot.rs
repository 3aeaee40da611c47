//! A server reached by DNS over TLS (RFC 7858).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::TlsServer;

use super::cause::Cause;
use super::connect::Tls;
use super::connection::{Connection, Query, Stream};
use super::health::Health;
use super::kept::{Kept, Link, Open, Opened, Opening, Standby, Which};
use crate::wire::query::Privacy;

/// A server, and the connection to it if there is one.
#[derive(Clone)]
pub struct Dot {
    kept: Kept<Connection>,
}

/// Reaches a server, and has it prove who it is. What it gives reads and writes bytes; tests put memory in its place.
pub trait Connect: Send + Sync {
    /// Connects.
    fn connect(&self) -> Connecting<'_>;
}

/// An attempt to connect.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, Cause>> + Send + 'a>>;

/// Reaches a server over TLS.
pub struct OverTls {
    /// Whom to trust.
    pub tls: Tls,
    /// The server.
    pub server: TlsServer,
}

/// Messages with their length before them, over what is connected.
struct Framed<T>(T);

impl Connect for OverTls {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = self.tls.connect(&self.server).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

impl<T: Connect + 'static> Open for Framed<T> {
    type Connection = Connection;

    fn open(&self, health: Arc<Health>, idle: Duration) -> Opening<'_, Connection> {
        Box::pin(async move {
            let stream = self.0.connect().await?;
            let (connection, driver) = Connection::open(stream, Privacy::Encrypted, health, idle);
            Ok(Opened { connection, driver: Box::pin(driver) })
        })
    }
}

impl Link for Connection {
    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    fn is(&self, other: &Self) -> bool {
        Self::is(self, other)
    }

    fn was_asked(&self) -> bool {
        Self::was_asked(self)
    }

    fn has_answered(&self) -> bool {
        self.answers_heard() > 0
    }

    fn finish(&self) {
        Self::finish(self);
    }
}

impl Dot {
    /// A server that is not yet connected to. A connection without queries for `idle` is closed.
    pub fn new(connect: impl Connect + 'static, idle: Duration) -> Self {
        Self { kept: Kept::new(Framed(connect), idle) }
    }

    /// The connection that is kept.
    pub fn standby(&self) -> &dyn Standby {
        &self.kept
    }

    /// The open connection, if there is one.
    pub fn ready(&self) -> Option<Connection> {
        self.kept.ready()
    }

    /// Asks, and waits for the answer and how long it took since it was asked; `asked` is called when it is.
    pub async fn exchange(
        &self,
        query: Query<'_>,
        which: Which,
        asked: impl Fn(),
    ) -> Result<(Vec<u8>, Duration), Cause> {
        loop {
            let connection = self.kept.connection_until(which, query.until).await?;
            // It may end before the query is sent; then another will do.
            if let Some(answered) = connection.ask(query).await? {
                asked();
                return answered.message().await;
            }
        }
    }
}
