use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::ReadBuf;
use tokio::net::TcpListener;

use super::super::super::ecs::{Line, Severity, Writer};
use super::super::super::outlet::{Metrics, way_to};
use super::*;

/// A connection to who neither reads nor says anything, which takes so many octets and breaks once they are acknowledged.
struct Breaking {
    stream: TcpStream,
    left: usize,
}

impl Wire for Breaking {
    fn socket(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Breaking {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            if unacknowledged(&self.stream) == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let octets = &octets[..octets.len().min(self.left)];
        let written = Pin::new(&mut self.stream).poll_write(context, octets);
        if let Poll::Ready(Ok(length)) = written {
            self.left -= length;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How many of so many messages count as delivered by a connection that breaks after so many octets, and the octets of one.
async fn delivered(messages: u64, left: usize) -> (u64, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let _collector = listener.accept().await.unwrap();
    let writer = Arc::new(Writer::new("pod", &dot_proxy_config::Labels::default(), false));
    let (outlet, mut inlet) = way_to("syslog", 64, &writer, &Metrics::default());
    let line = Arc::new(Line {
        at: SystemTime::UNIX_EPOCH,
        action: "client-misbehaved",
        severity: Severity::Notice,
        json: "x".repeat(1_000),
    });
    (0..messages).for_each(|_| outlet.offer(&line));
    let mut delivery = Delivery::new(Header::new("pod"), Arc::clone(inlet.ledger()), 64);
    let ended = delivery.over(&mut Breaking { stream, left }, &mut inlet).await;
    assert!(matches!(ended, Ended::Closed), "{ended:?}");
    let mut frame = Vec::new();
    delivery.header.write(&Numbered { number: 1, line }, &mut frame);
    (messages - inlet.ledger().undelivered(), frame.len())
}

#[tokio::test]
async fn what_the_system_had_not_taken_when_the_connection_broke_is_not_delivered() {
    assert_eq!(delivered(9, 5_000).await.0, 0, "of the only batch it is not known what had been taken");
    let (delivered, octets) = delivered(20, 20_000).await;
    assert_eq!(delivered, BATCH.div_ceil(octets) as u64, "the first batch was taken, the second was not");
}
