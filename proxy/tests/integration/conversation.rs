//! A server's side of one connection: queries in, what the test wants out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::reaction::Reaction;
use crate::server::Seen;

/// Answers what comes on a connection until one side ends it. The socket is another handle of the connection's own.
pub async fn hold(mut stream: impl AsyncRead + AsyncWrite + Unpin, socket: Socket, seen: &Seen) {
    let _open = seen.connected();
    let (late, mut due) = mpsc::channel::<Vec<u8>>(4096);
    let (mut delays, mut held, mut incoming) = (JoinSet::new(), Vec::new(), Vec::new());
    loop {
        tokio::select! {
            read = stream.read_buf(&mut incoming) => if !matches!(read, Ok(1..)) { return },
            Some(reply) = due.recv() => if send(&mut stream, &reply).await.is_err() { return },
        }
        while let Some(query) = take_frame(&mut incoming) {
            let (query, reaction) = seen.query(&query);
            let mut replies = reaction.messages(&query);
            match reaction {
                Reaction::Close => return,
                Reaction::Reset => return socket.set_linger(Some(Duration::ZERO)).unwrap(),
                Reaction::CutShort => {
                    let mut framed = frame(&replies[0]);
                    framed.truncate(framed.len() / 2);
                    let _ = stream.write_all(&framed).await; // the connection ends either way
                    let _ = stream.shutdown().await;
                    return;
                }
                Reaction::Late(delay) | Reaction::AlteredLate(delay, _) => {
                    let (late, reply) = (late.clone(), replies.remove(0));
                    delays.spawn(async move {
                        tokio::time::sleep(delay).await;
                        late.send(reply).await
                    });
                }
                Reaction::AnswerInReverse(count) => {
                    held.append(&mut replies);
                    if held.len() == count {
                        replies.extend(held.drain(..).rev());
                    }
                }
                _ => {}
            }
            for reply in &replies {
                if send(&mut stream, reply).await.is_err() {
                    return;
                }
            }
            if matches!(reaction, Reaction::AnswerAndClose) {
                let _ = stream.shutdown().await; // who has left already needs no farewell
                return;
            }
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    stream.write_all(&frame(message)).await?;
    stream.flush().await
}

/// A message with its length before it (RFC 1035 §4.2.2).
pub fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// Takes the first whole message out of what has come.
pub fn take_frame(incoming: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length: [u8; 2] = incoming.get(..2)?.try_into().unwrap();
    let end = 2 + usize::from(u16::from_be_bytes(length));
    let message = incoming.get(2..end)?.to_vec();
    incoming.drain(..end);
    Some(message)
}

/// A connection under TLS, on which the records with data that come are counted (RFC 8446 §5.1).
pub struct Tap {
    stream: TcpStream,
    seen: Arc<Seen>,
    header: Vec<u8>,
    body_left: usize,
}

impl Tap {
    pub fn new(stream: TcpStream, seen: Arc<Seen>) -> Self {
        Self { stream, seen, header: Vec::new(), body_left: 0 }
    }

    fn count_records(&mut self, bytes: &[u8]) {
        const APPLICATION_DATA: u8 = 23;
        for byte in bytes {
            if self.body_left > 0 {
                self.body_left -= 1;
                continue;
            }
            self.header.push(*byte);
            if let [content, _, _, high, low] = self.header[..] {
                self.seen.records.fetch_add(usize::from(content == APPLICATION_DATA), Ordering::SeqCst);
                self.body_left = u16::from_be_bytes([high, low]).into();
                self.header.clear();
            }
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.count_records(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
