//! A server in memory that does what a test says, for scenarios with paused time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::cause::Cause;
use super::connection::Stream;
use super::dot::{Connect, Connecting, Dot};
use super::server::{Configured, Definition, Transport};
use crate::wire::request::Question;
use crate::wire::{HEADER, name};

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers after so long.
    Answers(Duration),
    /// Answers with this response code.
    Fails(u8),
    /// Takes connections and queries, and says nothing.
    Silent,
    /// Answers one query, then closes.
    OneAnswer,
    /// Closes when it is asked.
    Closes,
    /// Takes no connection.
    Refuses,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Scripted {
    inner: Arc<Inner>,
}

struct Inner {
    mood: Mutex<Mood>,
    /// The TTL of what it answers, in seconds.
    ttl: u32,
    asked: Mutex<Vec<String>>,
    connections: Mutex<usize>,
}

/// Connecting takes a round trip.
const CONNECTING: Duration = Duration::from_millis(2);

pub(crate) const IDLE: Duration = Duration::from_secs(10);

impl Scripted {
    pub(crate) fn new(mood: Mood, ttl: u32) -> Self {
        let inner = Inner { mood: Mutex::new(mood), ttl, asked: Mutex::default(), connections: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn answering(latency: Duration) -> Self {
        Self::new(Mood::Answers(latency), 300)
    }

    pub(crate) fn dot(&self) -> Dot {
        Dot::new(self.clone(), IDLE)
    }

    /// As a configuration would have it.
    pub(crate) fn configured(&self) -> Configured {
        let (url, transport) = ("tls://test".to_owned(), Transport::Dot(self.dot()));
        Configured { url, transport, definition: Definition::default() }
    }

    pub(crate) fn turns(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    /// The names asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// How many connections it has taken.
    pub(crate) fn connections(&self) -> usize {
        *self.inner.connections.lock().unwrap()
    }

    fn mood(&self) -> Mood {
        *self.inner.mood.lock().unwrap()
    }

    async fn serve(self, stream: DuplexStream) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (replies, mut ready) = mpsc::channel::<Vec<u8>>(1024);
        let writing = tokio::spawn(async move {
            while let Some(reply) = ready.recv().await {
                writer.write_all(&reply).await.ok();
            }
        });
        while let Ok(length) = reader.read_u16().await {
            let mut query = vec![0; length.into()];
            reader.read_exact(&mut query).await.unwrap();
            let question = Question::starting(&query[HEADER..]).unwrap();
            self.inner.asked.lock().unwrap().push(question.name().to_string());
            match self.mood() {
                Mood::Answers(latency) => {
                    let (reply, replies) = (reply(&query, 0, self.inner.ttl), replies.clone());
                    tokio::spawn(async move {
                        sleep(latency).await;
                        replies.send(reply).await.ok();
                    });
                }
                Mood::Fails(rcode) => drop(replies.send(reply(&query, rcode, self.inner.ttl)).await),
                Mood::OneAnswer => {
                    replies.send(reply(&query, 0, self.inner.ttl)).await.ok();
                    break;
                }
                Mood::Closes => break,
                Mood::Silent | Mood::Refuses => {}
            }
        }
        drop(replies);
        writing.await.ok();
    }
}

impl Connect for Scripted {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            sleep(CONNECTING).await;
            if self.mood() == Mood::Refuses {
                return Err(Cause::ConnectionRefused);
            }
            *self.inner.connections.lock().unwrap() += 1;
            let (client, server) = duplex(65_536);
            tokio::spawn(self.clone().serve(server));
            Ok(Box::new(client) as Box<dyn Stream>)
        })
    }
}

/// One address for whatever was asked, framed.
fn reply(query: &[u8], rcode: u8, ttl: u32) -> Vec<u8> {
    let question = Question::starting(&query[HEADER..]).unwrap();
    let answers = u8::from(rcode == 0);
    let mut message = vec![query[0], query[1], 0x80, rcode, 0, 1, 0, answers, 0, 0, 0, 0];
    message.extend(question.as_bytes());
    if rcode == 0 {
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4, 192, 0, 2, 1]);
    }
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

/// A question for an address.
pub(crate) fn question(text: &str) -> Vec<u8> {
    [name::from_text(text), vec![0, 1, 0, 1]].concat()
}
