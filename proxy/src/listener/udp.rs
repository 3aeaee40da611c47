//! Queries in datagrams.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tracing::warn;

use crate::resolve::{Lookup, Protocol, Resolver, Step};

/// Longest query that is read: far more than a question with EDNS options takes.
const LONGEST_QUERY: usize = 4096;

/// Serves datagrams until told to stop. What the cache or the policy can answer is answered on this task.
pub async fn serve(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, mut stop: watch::Receiver<bool>) {
    let mut query = vec![0; LONGEST_QUERY];
    let mut reply = Vec::with_capacity(LONGEST_QUERY);
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut query) => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                // The kernel reports earlier failures to send here; none of them is about the next datagram.
                warn!(%error, "reading a datagram failed");
                tokio::task::yield_now().await;
                continue;
            }
        };
        if !resolver.admits(client.ip()) {
            continue;
        }
        reply.clear();
        match resolver.begin(&query[..length], Protocol::Udp, &mut reply) {
            Step::Reply | Step::ReplyInvalid => send(&socket, &reply, client).await,
            Step::Ask(lookup) => drop(tokio::spawn(finish(Arc::clone(&socket), Arc::clone(&resolver), lookup, client))),
            Step::Ignore => {}
        }
    }
}

async fn finish(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, lookup: Box<Lookup>, client: SocketAddr) {
    let mut reply = Vec::new();
    resolver.finish(&lookup, &mut reply).await;
    send(&socket, &reply, client).await;
}

/// A client that cannot be reached has itself to look after; the next one is not held up by it.
async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%error, "sending a reply failed");
    }
}
