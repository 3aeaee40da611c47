//! Why a connection ended, and how.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::clients::table::Offence;
use crate::unacknowledged::unacknowledged;
use crate::wire::fault::Fault;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::listener) enum Closed {
    /// The client left.
    Left,
    /// The proxy stops.
    Stopped,
    /// The client asked, and then nothing for long.
    Idle,
    /// The connection failed.
    Failed,
    /// A message's length is none that a query has.
    BadFrame,
    /// A message is no query.
    Invalid(Fault),
    /// A query did not arrive wholly in time.
    Trickled,
    /// The client did not take what it was owed.
    NeverRead,
    /// Nothing was ever asked.
    Unused,
    /// More octets were owed, or had come, than is kept.
    Octets,
    /// More of its queries were in flight than its share.
    InFlight,
    /// There were as many connections as are allowed, and on this one nothing had been asked yet.
    Displaced,
    /// There were as many connections as are allowed, and this one had been idle for longest.
    MadeRoom,
    /// The client is shut out.
    ShutOut,
}

impl Closed {
    /// For labels.
    pub(in crate::listener) fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Stopped => "stopped",
            Self::Idle => "idle",
            Self::Failed => "failed",
            Self::BadFrame => "bad-frame",
            Self::Invalid(fault) => fault.as_str(),
            Self::Trickled => "trickled",
            Self::NeverRead => "never-read",
            Self::Unused => "unused",
            Self::Octets => "octets",
            Self::InFlight => "in-flight",
            Self::Displaced => "displaced",
            Self::MadeRoom => "made-room",
            Self::ShutOut => "shut-out",
        }
    }

    /// What the client did, if that was no way to behave.
    pub(super) fn offence(self) -> Option<Offence> {
        match self {
            Self::Left | Self::Stopped | Self::Idle | Self::Failed => None,
            Self::Displaced | Self::MadeRoom | Self::ShutOut => None,
            Self::BadFrame | Self::Invalid(_) => Some(Offence::Malformed),
            Self::Trickled | Self::NeverRead => Some(Offence::Slow),
            Self::Unused => Some(Offence::Unused),
            Self::Octets | Self::InFlight => Some(Offence::Share),
        }
    }

    /// Whether the connection is reset: for who misbehaved nothing more is kept, neither here nor in the kernel.
    pub(super) fn is_reset(self) -> bool {
        matches!(self, Self::Displaced | Self::ShutOut) || self.offence().is_some()
    }

    /// Closes a connection so that the client gets what was written.
    pub(super) async fn close(self, mut stream: TcpStream) {
        if !self.is_reset() {
            let _ = stream.shutdown().await; // then it is gone already
            return;
        }
        // Whoever does not read is not waited for, and who never asked was never written to.
        if !matches!(self, Self::NeverRead | Self::Octets | Self::Displaced | Self::Unused) {
            delivered(&stream).await;
        }
        reset(&stream);
    }
}

/// Ends a connection by a reset, when the stream is dropped.
pub(super) fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO)); // else it is closed as usual
}

/// Waits until the client's system has what was written: a reset takes back what is on its way.
async fn delivered(stream: &TcpStream) {
    /// What one round trip takes, for who is near and for who is far; the last is what is waited for at most.
    const MOST: Duration = Duration::from_secs(1);
    let (began, mut pause) = (Instant::now(), Duration::from_millis(1));
    while unacknowledged(stream) > 0 && began.elapsed() < MOST {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
