//! An upstream's octets, in whatever pieces they come, on a connection with queries in flight: every query gets the first
//! message that answers it, and no other.
#![no_main]

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use dot_fuzz::conversation::Conversation;
use dot_fuzz::resolver::runtime;
use dot_proxy::replies::Outbox;
use dot_proxy::upstream::cause::Cause;
use dot_proxy::upstream::connection::{Asker, Attempt, Connection, Query};
use dot_proxy::upstream::health::Health;
use dot_proxy::wire::query::Privacy;
use dot_proxy::wire::request::{Asked, Question};
use dot_proxy::wire::{flag, response};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tokio::time::Instant;

const QUESTIONS: [&[u8]; 3] =
    [b"\x01a\0\0\x01\0\x01", b"\x01a\0\0\x1c\0\x01", b"\x03wWw\x07example\x03com\0\0\x01\0\x01"];
const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };

static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

thread_local! {
    static DELIVERED: RefCell<Vec<(usize, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
}

/// Notes what it is told.
struct Noting(usize, Mutex<bool>);

impl Asker for Noting {
    fn answered(self: Arc<Self>, _: Attempt, message: &[u8], _: Instant, _: &mut Outbox) {
        let mut told = self.1.lock().expect("nobody panics");
        assert!(!std::mem::replace(&mut *told, true), "a query hears of its answer once");
        DELIVERED.with_borrow_mut(|delivered| delivered.push((self.0, message.to_vec())));
    }

    fn late(self: Arc<Self>, _: Attempt) {}

    fn failed(self: Arc<Self>, _: Attempt, _: Cause) {
        let mut told = self.1.lock().expect("nobody panics");
        assert!(!std::mem::replace(&mut *told, true), "a query that was answered does not fail");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((count, input)) = input.split_first() else { return };
    let (pieces, octets) = input.split_at(input.len().min(usize::from(count % 16)));
    let _entered = RUNTIME.enter();
    DELIVERED.with_borrow_mut(Vec::clear);
    let stream = Conversation::new(&[], &[]);
    let (connection, driver) =
        Connection::open(stream.clone(), Privacy::Plain, Arc::new(Health::default()), Duration::from_secs(60));
    let now = Instant::now();
    for (index, question) in QUESTIONS.into_iter().enumerate() {
        let question = Question::starting(question).expect("it is one");
        let query = Query { asked: ASKED, question, until: now + Duration::from_secs(3600) };
        let asker = Arc::new(Noting(index, Mutex::new(false)));
        connection.enqueue(query, Attempt { server: 0, sent: now }, asker).expect("there is room for three");
    }
    connection.flush();
    let octets = with_ids(octets, &ids(&stream.written()));
    // The rest of the conversation, in the pieces chosen.
    stream.restart(&octets, pieces);
    let (mut driver, mut context) = (pin!(driver), Context::from_waker(Waker::noop()));
    while driver.as_mut().poll(&mut context).is_pending() {}
    let expected = expected(&octets, &ids(&stream.written()));
    DELIVERED.with_borrow(|delivered| assert_eq!(*delivered, expected));
});

/// The ids of the queries in the order in which they were written.
fn ids(written: &[u8]) -> Vec<[u8; 2]> {
    messages(written).map(|message| [message[0], message[1]]).collect()
}

fn messages(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = octets.split_first_chunk()?;
        let (message, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        octets = rest;
        Some(message)
    })
}

/// Ids are random: where the input says 0, 1 or 2 it means that query's.
fn with_ids(octets: &[u8], ids: &[[u8; 2]]) -> Vec<u8> {
    let (mut out, mut at) = (octets.to_vec(), 0);
    let lengths: Vec<usize> = messages(octets).map(<[u8]>::len).collect();
    for length in lengths {
        if let Some(id) = out.get_mut(at + 2..at + 4).filter(|_| length >= 2)
            && let Some(of_query) = ids.get(usize::from(u16::from_be_bytes([id[0], id[1]])))
        {
            id.copy_from_slice(of_query);
        }
        at += 2 + length;
    }
    out
}

fn expected(octets: &[u8], ids: &[[u8; 2]]) -> Vec<(usize, Vec<u8>)> {
    let mut expected: Vec<(usize, Vec<u8>)> = Vec::new();
    for message in messages(octets) {
        let id = message.first_chunk().and_then(|id| ids.iter().position(|known| known == id));
        let Some(index) = id.filter(|index| expected.iter().all(|(answered, _)| answered != index)) else { continue };
        let question = Question::starting(QUESTIONS[index]).expect("it is one");
        if response::answers(message, question) {
            expected.push((index, message.to_vec()));
        }
    }
    expected
}
