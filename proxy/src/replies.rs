//! Where replies go: to a datagram's sender, to a TCP client, or to who waits for it in this process.
//!
//! Knows sockets, and nothing of what a reply says.

mod stream;

use std::sync::Arc;

use tokio::sync::oneshot;

pub use crate::datagrams::{Batch, DatagramSocket, Peer};
pub use stream::{Collected, Owed, StreamOutbox, Streams};

/// Where a reply goes.
#[derive(Debug, Clone)]
pub enum Recipient {
    /// Back to where a datagram came from.
    Datagram {
        /// The socket that it came to.
        socket: Arc<DatagramSocket>,
        /// Who sent it, and to which address.
        peer: Peer,
    },
    /// To a TCP client, which is owed it until this is dropped.
    Stream(Owed),
    /// To a task of this process.
    Caller(Caller),
}

/// Takes one reply for a task that waits for it.
#[derive(Debug, Clone)]
pub struct Caller(Arc<std::sync::Mutex<Option<oneshot::Sender<Vec<u8>>>>>);

/// Replies gathered for one go: one sendmmsg for each socket, each TCP client woken once. The buffers stay.
#[derive(Debug, Default)]
pub struct Outbox {
    /// As many as there are UDP sockets.
    datagrams: Vec<(Arc<DatagramSocket>, Batch)>,
    /// To be woken.
    streams: Vec<Arc<StreamOutbox>>,
}

impl Recipient {
    /// A recipient in this process, and what gets the reply; an error there means that no reply will come.
    pub fn caller() -> (Self, oneshot::Receiver<Vec<u8>>) {
        let (sender, receiver) = oneshot::channel();
        (Self::Caller(Caller(Arc::new(std::sync::Mutex::new(Some(sender))))), receiver)
    }
}

impl Caller {
    fn take(&self, reply: Vec<u8>) {
        let sender = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(reply); // who no longer waits needs none
        }
    }
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reply, which `write` appends to a buffer that may hold others. It is on its way after the next
    /// [`flush`](Self::flush) at the latest.
    pub fn push(&mut self, to: &Recipient, write: impl FnOnce(&mut Vec<u8>)) {
        match to {
            Recipient::Datagram { socket, peer } => {
                let batch = self.batch(socket);
                write(batch.draft());
                batch.commit(*peer);
                if batch.len() == crate::datagrams::BATCH {
                    batch.send(socket);
                }
            }
            Recipient::Stream(owed) => {
                let stream = owed.stream();
                stream.push(write);
                if !self.streams.iter().any(|known| Arc::ptr_eq(known, stream)) {
                    self.streams.push(Arc::clone(stream));
                }
            }
            Recipient::Caller(caller) => {
                let mut reply = Vec::new();
                write(&mut reply);
                caller.take(reply);
            }
        }
    }

    /// Sends what was added.
    pub fn flush(&mut self) {
        for (socket, batch) in &mut self.datagrams {
            batch.send(socket);
        }
        self.streams.drain(..).for_each(|stream| stream.wake());
    }

    fn batch(&mut self, socket: &Arc<DatagramSocket>) -> &mut Batch {
        let known = self.datagrams.iter().position(|(known, _)| Arc::ptr_eq(known, socket));
        let index = known.unwrap_or_else(|| {
            self.datagrams.push((Arc::clone(socket), Batch::default()));
            self.datagrams.len() - 1
        });
        &mut self.datagrams[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn replies_leave_from_the_socket_that_each_was_asked_on() {
        let sockets: Vec<_> = (0..2)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                Arc::new(DatagramSocket::new(socket, Counter::default()).unwrap())
            })
            .collect();
        let mut outbox = Outbox::new();
        let clients: Vec<_> = (0..200u8)
            .map(|index| {
                let (client, socket) = (UdpSocket::bind("127.0.0.1:0").unwrap(), &sockets[usize::from(index % 2)]);
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let peer = Peer::at(client.local_addr().unwrap());
                outbox.push(&Recipient::Datagram { socket: Arc::clone(socket), peer }, |out| out.push(index));
                (client, socket, index)
            })
            .collect();
        outbox.flush();
        for (client, socket, index) in clients {
            let mut buffer = [0; 8];
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&[index][..], socket.local_addr().unwrap()));
        }
    }

    #[tokio::test]
    async fn a_caller_gets_its_reply_or_hears_that_none_will_come() {
        let (recipient, reply) = Recipient::caller();
        let mut outbox = Outbox::new();
        outbox.push(&recipient.clone(), |out| out.extend(*b"reply"));
        outbox.push(&recipient, |out| out.extend(*b"again"));
        assert_eq!(reply.await.unwrap(), b"reply");
        let (recipient, reply) = Recipient::caller();
        drop(recipient);
        assert!(reply.await.is_err());
    }
}
