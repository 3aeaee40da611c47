//! A TCP connection that acknowledges what it reads at once.
//!
//! A server that leaves Nagle's algorithm on (RFC 9293 §3.7.4), as unbound does, holds an answer back until all that it sent
//! before is acknowledged: the session tickets of the handshake, or the answer to another query. The kernel delays its
//! acknowledgements by 40 ms when it takes a connection for a conversation that takes turns. Many queries in flight do not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection.
#[derive(Debug)]
pub struct Prompt(TcpStream);

impl Prompt {
    /// From now on.
    pub fn from(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            acknowledge(&self.0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Has the kernel acknowledge now. It is not told once and for all: the next query that is sent makes it forget.
#[cfg(target_os = "linux")]
fn acknowledge(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_tcp_quickack(true); // a connection that is over needs no acknowledgement
}

#[cfg(not(target_os = "linux"))]
fn acknowledge(_: &TcpStream) {}
