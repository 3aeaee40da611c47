//! One connection with many queries in flight (RFC 7766 §6.2.1.1): answers come in any order and are matched by id and
//! question. Anything that reads and writes bytes will do, so that it can be tested in memory.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

use super::cause::Cause;
use crate::wire;
use crate::wire::query::{self, Privacy};
use crate::wire::request::{Asked, Question};
use crate::wire::response;

/// Queries that wait for an answer on one connection; far below the 65,536 ids, so that a free one is found at once.
const MAX_IN_FLIGHT: usize = 8_192;

/// Queries that wait to be written.
const QUEUE: usize = 256;

/// What is gathered for one write before the queue has to wait.
const WRITE_BATCH: usize = 16_384;

/// A handle to an open connection; it closes when the last handle is dropped, or the server closes it.
#[derive(Debug, Clone)]
pub struct Connection {
    queries: mpsc::Sender<Pending>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    frames_heard: AtomicU64,
    retire: Notify,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    question: Box<[u8]>,
    answer: oneshot::Sender<Result<Vec<u8>, Cause>>,
}

struct InFlight {
    question: Box<[u8]>,
    answer: oneshot::Sender<Result<Vec<u8>, Cause>>,
}

impl Connection {
    /// Takes over a stream on which TLS is done. `privacy` says whether queries are padded.
    pub fn open<S>(stream: S, privacy: Privacy) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (queries, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        tokio::spawn(run(stream, privacy, receiver, Arc::clone(&shared)));
        Self { queries, shared }
    }

    /// Whether the connection can take no more queries.
    pub fn is_closed(&self) -> bool {
        self.queries.is_closed()
    }

    /// How many messages have come in; a query that timed out while this stood still was asked of a dead connection.
    pub fn frames_heard(&self) -> u64 {
        self.shared.frames_heard.load(Ordering::Relaxed)
    }

    /// Closes the connection; what is in flight ends with [`Cause::ConnectionClosed`] and can be asked elsewhere.
    pub fn retire(&self) {
        self.shared.retire.notify_one();
    }

    /// Asks, and waits for the answer's message. Dropping the future gives the question up.
    pub async fn exchange(&self, asked: Asked, question: Question<'_>) -> Result<Vec<u8>, Cause> {
        let (answer, answered) = oneshot::channel();
        let pending = Pending { asked, question: question.as_bytes().into(), answer };
        self.queries.send(pending).await.map_err(|_| Cause::ConnectionClosed)?;
        answered.await.map_err(|_| Cause::ConnectionClosed)?
    }
}

/// Serves one connection until it ends, then tells everybody who waits.
async fn run<S>(stream: S, privacy: Privacy, mut queries: mpsc::Receiver<Pending>, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut state = State {
        privacy,
        in_flight: HashMap::new(),
        incoming: Vec::new(),
        outgoing: Vec::new(),
        next_id: super::random_id(),
    };
    let mut unflushed = false;
    let cause = loop {
        let to_write = !state.outgoing.is_empty();
        let room = state.outgoing.len() < WRITE_BATCH && state.in_flight.len() < MAX_IN_FLIGHT;
        tokio::select! {
            read = reader.read_buf(&mut state.incoming) => match read {
                Ok(0) => break Cause::ConnectionClosed,
                Ok(_) => state.take_frames(&shared),
                Err(error) => break ended_by(&error),
            },
            written = write_on(&mut writer, &state.outgoing), if to_write || unflushed => match written {
                Ok(Written::Some(count)) => { state.outgoing.drain(..count); unflushed = true; }
                Ok(Written::All) => unflushed = false,
                Err(error) => break ended_by(&error),
            },
            pending = queries.recv(), if room => match pending {
                Some(pending) => state.enqueue(pending, &mut queries),
                None => break Cause::ConnectionClosed,
            },
            () = shared.retire.notified() => break Cause::ConnectionClosed,
        }
    };
    queries.close();
    let waiting = state.in_flight.into_values().map(|in_flight| in_flight.answer);
    for answer in waiting.chain(std::iter::from_fn(|| queries.try_recv().ok()).map(|pending| pending.answer)) {
        let _ = answer.send(Err(cause)); // who gave up waiting needs no answer
    }
    let _ = writer.shutdown().await; // the connection is over either way
}

enum Written {
    Some(usize),
    All,
}

/// Writes what is left, or, when nothing is, lets TLS send what it holds back. Giving up half-way loses nothing.
async fn write_on(writer: &mut (impl AsyncWrite + Unpin), left: &[u8]) -> io::Result<Written> {
    if left.is_empty() {
        return writer.flush().await.map(|()| Written::All);
    }
    match writer.write(left).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(Written::Some(count)),
    }
}

fn ended_by(error: &io::Error) -> Cause {
    match Cause::of_connecting(error) {
        // A certificate or handshake problem can still come after TLS 1.3 lets us write; other errors end what was open.
        cause @ (Cause::TlsHandshakeFailed | Cause::CertificateInvalid) => cause,
        _ => Cause::ConnectionClosed,
    }
}

struct State {
    privacy: Privacy,
    in_flight: HashMap<u16, InFlight>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    next_id: u16,
}

impl State {
    /// Puts a query, and all that wait behind it, into the next write.
    fn enqueue(&mut self, first: Pending, queries: &mut mpsc::Receiver<Pending>) {
        let mut next = Some(first);
        while let Some(pending) = next {
            self.frame(pending);
            let room = self.outgoing.len() < WRITE_BATCH && self.in_flight.len() < MAX_IN_FLIGHT;
            next = if room { queries.try_recv().ok() } else { None };
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.retain(|_, waiting| !waiting.answer.is_closed());
        }
    }

    fn frame(&mut self, pending: Pending) {
        let Some(question) = Question::starting(&pending.question) else { return };
        while self.in_flight.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let start = self.outgoing.len();
        self.outgoing.extend([0, 0]);
        query::write(&mut self.outgoing, self.next_id, pending.asked, question, self.privacy);
        let length = u16::try_from(self.outgoing.len() - start - 2).expect("a query is a few hundred octets");
        self.outgoing[start..start + 2].copy_from_slice(&length.to_be_bytes());
        self.in_flight.insert(self.next_id, InFlight { question: pending.question, answer: pending.answer });
        self.next_id = self.next_id.wrapping_add(1);
    }

    /// Hands every whole message that has come (RFC 1035 §4.2.2) to who waits for it.
    fn take_frames(&mut self, shared: &Shared) {
        let mut at = 0;
        while let Some(length) = wire::read_u16(&self.incoming, at) {
            let Some(message) = self.incoming.get(at + 2..at + 2 + usize::from(length)) else { break };
            shared.frames_heard.fetch_add(1, Ordering::Relaxed);
            deliver(&mut self.in_flight, message);
            at += 2 + usize::from(length);
        }
        self.incoming.drain(..at);
    }
}

/// A message that nobody waits for, or that answers another question, is dropped: what was asked may still be answered.
fn deliver(in_flight: &mut HashMap<u16, InFlight>, message: &[u8]) {
    let Some(id) = wire::id(message) else { return };
    let std::collections::hash_map::Entry::Occupied(entry) = in_flight.entry(id) else { return };
    let fits = Question::starting(&entry.get().question).is_some_and(|question| response::answers(message, question));
    if fits {
        let _ = entry.remove().answer.send(Ok(message.to_vec())); // who gave up waiting needs no answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::flag;
    use crate::wire::name::from_text;
    use tokio::io::DuplexStream;

    const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };

    fn question(name: &str) -> Vec<u8> {
        [from_text(name), vec![0, 1, 0, 1]].concat()
    }

    /// Asks in a task of its own.
    fn ask(connection: &Connection, name: &str) -> tokio::task::JoinHandle<Result<Vec<u8>, Cause>> {
        let (connection, bytes) = (connection.clone(), question(name));
        tokio::spawn(async move { connection.exchange(ASKED, Question::starting(&bytes).unwrap()).await })
    }

    async fn read_query(server: &mut DuplexStream) -> Vec<u8> {
        let length = server.read_u16().await.unwrap();
        let mut message = vec![0; length.into()];
        server.read_exact(&mut message).await.unwrap();
        message
    }

    async fn send(server: &mut DuplexStream, message: &[u8]) {
        server.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
        server.write_all(message).await.unwrap();
    }

    fn response_to(query: &[u8]) -> Vec<u8> {
        let question = Question::starting(&query[wire::HEADER..]).unwrap();
        let mut message = vec![query[0], query[1], 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(question.as_bytes());
        message
    }

    fn open() -> (Connection, DuplexStream) {
        let (client, server) = tokio::io::duplex(65_536);
        (Connection::open(client, Privacy::Encrypted), server)
    }

    #[tokio::test]
    async fn answers_find_their_questions_in_whatever_order_they_come() {
        let (connection, mut server) = open();
        let (first, second) = (ask(&connection, "a.example"), ask(&connection, "b.example"));
        let queries = [read_query(&mut server).await, read_query(&mut server).await];
        for query in queries.iter().rev() {
            send(&mut server, &response_to(query)).await;
        }
        let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
        assert_eq!(first[wire::HEADER..], question("a.example"));
        assert_eq!(second[wire::HEADER..], question("b.example"));
    }

    #[tokio::test]
    async fn a_message_with_another_id_or_question_is_not_taken_for_the_answer() {
        let (connection, mut server) = open();
        let asked = ask(&connection, "a.example");
        let query = read_query(&mut server).await;
        let mut wrong_id = response_to(&query);
        wrong_id[0] ^= 0xff;
        let mut wrong_question = response_to(&query);
        wrong_question[wire::HEADER + 1] = b'x';
        for message in [&wrong_id, &wrong_question, &query, &vec![0; 3], &response_to(&query)] {
            send(&mut server, message).await;
        }
        assert_eq!(asked.await.unwrap().unwrap(), response_to(&query));
    }

    #[tokio::test]
    async fn an_answer_that_comes_in_single_octets_is_put_together() {
        let (connection, mut server) = open();
        let asked = ask(&connection, "a.example");
        let response = response_to(&read_query(&mut server).await);
        let length = u16::try_from(response.len()).unwrap().to_be_bytes();
        for byte in length.iter().chain(&response) {
            server.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.await.unwrap().unwrap(), response);
    }

    #[tokio::test]
    async fn when_the_connection_ends_everybody_who_waits_is_told() {
        let (connection, mut server) = open();
        let asked = [ask(&connection, "a.example"), ask(&connection, "b.example")];
        read_query(&mut server).await;
        drop(server);
        for one in asked {
            assert_eq!(one.await.unwrap(), Err(Cause::ConnectionClosed));
        }
        let bytes = question("c.example");
        let late = connection.exchange(ASKED, Question::starting(&bytes).unwrap()).await;
        assert_eq!(late, Err(Cause::ConnectionClosed));
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn a_retired_connection_lets_go_of_what_is_in_flight() {
        let (connection, mut server) = open();
        let asked = ask(&connection, "a.example");
        read_query(&mut server).await;
        connection.retire();
        assert_eq!(asked.await.unwrap(), Err(Cause::ConnectionClosed));
    }

    #[tokio::test]
    async fn reading_goes_on_while_the_server_takes_no_more() {
        let (client, mut server) = tokio::io::duplex(256);
        let connection = Connection::open(client, Privacy::Encrypted);
        let asked: Vec<_> = (0..50).map(|index| ask(&connection, &format!("n{index}.example"))).collect();
        for _ in 0..50 {
            let response = response_to(&read_query(&mut server).await);
            send(&mut server, &response).await;
        }
        for one in asked {
            assert!(one.await.unwrap().is_ok());
        }
    }
}
