//! Queries on connections (RFC 7766): kept and reused for valid queries without limit, many in flight, answered as they
//! come; closed on the first invalid input, once what is owed has been written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, warn};

use crate::resolve::{Dropped, Protocol, Resolver, Step};

/// A client that sends nothing for so long, and is owed nothing, is let go (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(30);

/// A client that takes no reply for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Queries of one client in flight; it is not read from until one is answered.
const IN_FLIGHT: usize = 64;

/// Accepts connections until told to stop; at most so many at once.
pub async fn serve(
    listener: TcpListener,
    connections: usize,
    resolver: Arc<Resolver>,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                // Out of descriptors, most likely: they come back when clients leave.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !resolver.admits(client.ip()) {
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            resolver.count_dropped(Dropped::Connections);
            continue;
        };
        let (resolver, stop) = (Arc::clone(&resolver), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, resolver, stop).await {
                debug!(%error, %client, "a client's connection ended");
            }
            drop(slot);
        });
    }
    // Every client's task holds a slot until its last reply is written.
    let _ = slots.acquire_many(u32::try_from(connections).unwrap_or(u32::MAX)).await;
}

/// Reads queries from one client until it leaves, is idle, errs, or the proxy stops.
async fn converse(stream: TcpStream, resolver: Arc<Resolver>, stop: watch::Receiver<bool>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (replies, owed) = mpsc::channel(IN_FLIGHT);
    let writing = tokio::spawn(write_replies(writer, owed));
    let read = read_queries(reader, resolver, replies, stop).await;
    // The last sender is gone when the last query is answered; then everything owed has been written.
    writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
    read
}

async fn read_queries(
    mut reader: OwnedReadHalf,
    resolver: Arc<Resolver>,
    replies: mpsc::Sender<Vec<u8>>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        // Waiting for the place first keeps at most IN_FLIGHT queries of this client at work.
        let Ok(place) = replies.clone().reserve_owned().await else { return Ok(()) };
        tokio::select! {
            read = read_message(&mut reader, &mut query, &replies) => if !read? { return Ok(()) },
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let mut reply = framed();
        match resolver.begin(&query, Protocol::Tcp, &mut reply) {
            Step::Reply => drop(place.send(reply)),
            Step::ReplyInvalid => {
                place.send(reply);
                return Ok(());
            }
            Step::Ignore => return Ok(()),
            Step::Ask(lookup) => {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    resolver.finish(&lookup, &mut reply).await;
                    place.send(reply);
                });
            }
        }
    }
}

/// Reads one message with its length before it; false when the client has left, or been idle for too long.
async fn read_message(
    reader: &mut OwnedReadHalf,
    message: &mut Vec<u8>,
    replies: &mpsc::Sender<Vec<u8>>,
) -> io::Result<bool> {
    loop {
        // Peeking first: a wait that ends in between loses nothing of what has come.
        match tokio::time::timeout(IDLE, reader.peek(&mut [0])).await {
            Ok(Ok(0)) => return Ok(false),
            Ok(Ok(_)) => break,
            Ok(Err(error)) => return Err(error),
            // One place is ours; any other that is taken is a reply still owed.
            Err(_) if replies.capacity() + 1 >= IN_FLIGHT => return Ok(false),
            Err(_) => {}
        }
    }
    let reading = async {
        let length = reader.read_u16().await?;
        message.resize(length.into(), 0);
        reader.read_exact(message).await
    };
    match tokio::time::timeout(IDLE, reading).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// A buffer with room for the length.
fn framed() -> Vec<u8> {
    vec![0; 2]
}

async fn write_replies(mut writer: OwnedWriteHalf, mut owed: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(mut reply) = owed.recv().await {
        let Ok(length) = u16::try_from(reply.len() - 2) else { continue };
        reply[..2].copy_from_slice(&length.to_be_bytes());
        tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&reply)).await??;
    }
    writer.shutdown().await
}
