//! Queries on connections (RFC 7766): kept and reused for valid queries without limit, many in flight, answered as they
//! come; closed on the first invalid input, once what is owed has been written.

mod client;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use self::client::{Client, Closed, Scratch};
use super::{ClosedLabel, Metrics};
use crate::replies::Streams;
use crate::resolve::{Dropped, Resolver};

thread_local! {
    /// Buffers belong to the thread, not to the client: one that is idle has none.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Accepts connections until told to stop, at most so many at once; then waits until every client has what it is owed.
pub async fn serve(
    listener: TcpListener,
    connections: usize,
    resolver: Arc<Resolver>,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let (slots, streams) = (Arc::new(Semaphore::new(connections)), Arc::new(Streams::default()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                // Out of descriptors, most likely: they come back when clients leave.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !resolver.admits(address.ip()) {
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            resolver.count_dropped(Dropped::Connections);
            continue;
        };
        let client = Client::new(stream, Arc::clone(&streams), Arc::clone(&resolver), metrics.clone());
        let (stop, metrics) = (stop.clone(), metrics.clone());
        tokio::spawn(async move {
            metrics.clients.inc();
            let served = async {
                let (stream, reason) = converse(client, stop).await;
                debug!(client = %address, reason = reason.as_str(), "a client's connection ended");
                metrics.closed.get_or_create(&ClosedLabel { reason: reason.as_str() }).inc();
                close(stream, reason).await;
            };
            metrics.panics.contain_task("connection", served).await;
            metrics.clients.dec();
            drop(slot);
        });
    }
    // Every client's task holds a slot until its last reply is written.
    let _ = slots.acquire_many(u32::try_from(connections).unwrap_or(u32::MAX)).await;
}

/// Serves a client until it leaves or is let go.
async fn converse(mut client: Client, mut stop: watch::Receiver<bool>) -> (TcpStream, Closed) {
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut stopping = false;
    let mut timer = pin!(sleep_until(client.due(Instant::now()).0));
    let reason = poll_fn(|context: &mut Context<'_>| {
        if !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            client.stop();
        }
        let polled = SCRATCH.with_borrow_mut(|scratch| client.poll(context, scratch));
        if polled.is_ready() {
            return polled;
        }
        // The timer is not moved with every query: when it ends, it is seen what the client did meanwhile.
        while timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let (due, reason) = client.due(now);
            if due <= now {
                return Poll::Ready(reason);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await;
    (client.into_stream(), reason)
}

/// Closes a connection so that the client gets what was written.
async fn close(mut stream: TcpStream, reason: Closed) {
    /// For how long, and how much, is read from who sent something invalid.
    const LINGER: Duration = Duration::from_secs(1);
    const DISCARDED: usize = 64 << 10;
    let shut = stream.shutdown().await;
    if reason != Closed::Invalid || shut.is_err() {
        return;
    }
    // Closing with input unread resets the connection, and the client would lose replies that it has not read yet.
    let discard = async {
        let (mut discarded, mut bytes) = (0, [0; 1024]);
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            discarded += length;
            if discarded > DISCARDED {
                return;
            }
        }
    };
    let _ = timeout(LINGER, discard).await;
}
