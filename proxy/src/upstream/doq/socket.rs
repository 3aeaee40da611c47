//! The socket under a QUIC connection, and the tasks and timers that serve it.
//!
//! quinn brings the like. Its own looks for what moves bulk quickest, many segments in one system call, and keeps 3 MB of buffers
//! for them at every connection; and its probing takes an address as text, by which the system's name resolution gets into the
//! program. A query is one datagram, its answer one or two.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as Bound};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, UdpPoller};
use tokio::net::UdpSocket;
use tokio::time::{Instant, Sleep, sleep_until};

/// An endpoint that connects from this local address.
pub(super) fn endpoint(local: SocketAddr) -> io::Result<Endpoint> {
    let socket = Bound::bind(local)?;
    socket.set_nonblocking(true)?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(OnTokio))
}

/// Tasks and timers of the runtime that is entered.
#[derive(Debug)]
struct OnTokio;

#[derive(Debug)]
struct Socket(UdpSocket);

#[derive(Debug)]
struct Timer(Pin<Box<Sleep>>);

/// Waits until the socket takes another datagram, each for its own task.
struct Writable {
    socket: Arc<Socket>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl Runtime for OnTokio {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(Box::pin(sleep_until(at.into()))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(future);
    }

    fn wrap_udp_socket(&self, socket: Bound) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket(UdpSocket::from_std(socket)?)))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: std::time::Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), context)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.0.try_send_to(transmit.contents, transmit.destination) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // Like a datagram that was lost: QUIC sends its content again, until its own time for that is over.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        received: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_recv_ready(context))?;
            let mut count = 0;
            for (buffer, meta) in buffers.iter_mut().zip(&mut *received) {
                match self.0.try_recv_from(buffer) {
                    Ok((len, addr)) => *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if count == 0 => return Poll::Ready(Err(error)),
                    Err(_) => break,
                }
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.0.writable().await })
        });
        let outcome = ready!(waiting.as_mut().poll(context));
        this.waiting = None;
        Poll::Ready(outcome)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writable").field("socket", &self.socket).finish_non_exhaustive()
    }
}
