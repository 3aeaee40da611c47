//! A message of an upstream's: read, kept, found again and told to a client.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use dot_fuzz::resolver;
use dot_proxy::cache::{Cache, Found, Key};
use dot_proxy::wire::reply;
use dot_proxy::wire::request::{Asked, Edns, Question};
use dot_proxy::wire::response::{self, Answer, TtlBounds};
use dot_proxy::wire::{HEADER, flag};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

const BOUNDS: TtlBounds = TtlBounds { min: 0, max: 86_400 };
const DEFAULT: &[u8] = b"\x03wWw\x07example\x03com\0\0\x01\0\x01";

static STAGE: LazyLock<(Cache, Instant)> = LazyLock::new(|| (resolver::cache(256 << 10), Instant::now()));

fuzz_target!(|input: &[u8]| {
    let Some(([how, limit], message)) = input.split_first_chunk() else { return };
    let bit = |bit: u8| how >> bit & 1 != 0;
    let edns = bit(0).then_some(Edns { udp_payload: 1232, version: 0, dnssec_ok: bit(1), cookie: None });
    let flags = flag::RD | if bit(2) { flag::AD } else { 0 } | if bit(3) { flag::CD } else { 0 };
    let asked = Asked { id: 0x4242, flags, edns };
    let limit = if bit(4) { 65_535 } else { 512 + 4 * usize::from(*limit) };
    let age = if bit(5) { u32::from(how >> 6) * 40_000 } else { u32::from(how >> 6) };

    let _ = (response::keepalive(message), response::rcode(message), response::extended_error(message));
    // The question that it answers, if it can be one that was asked.
    let question = message.get(HEADER..).and_then(Question::starting);
    let question = question.or_else(|| Question::starting(DEFAULT)).expect("the default is a question");
    assert!(response::answers(message, question) || Answer::parse(message, question, BOUNDS).is_err());
    let Ok(answer) = Answer::parse(message, question, BOUNDS) else { return };
    assert!(answer.is_to(question) && answer.lifetime() <= BOUNDS.max);

    let mut out = Vec::new();
    reply::answer(&mut out, asked, question, &answer, age, limit);
    is_told(message, &answer, &out, asked, question, limit);
    let read = response::Answer::parse(&out, question, BOUNDS).expect("what is told can be read");
    assert_eq!(read.rcode(), answer.rcode());

    out.clear();
    reply::stale(&mut out, asked, question, &answer, limit);
    is_told(message, &answer, &out, asked, question, limit);
    is_kept(&answer, asked, question);
    if answer.denies_name() {
        denies_names_below(&answer, question);
    }
});

/// The upstream's message with the TTLs and the flags that were told: what a second decoder reads in it, it must read in
/// what was told. Data that point into these, which nobody looks into, are the same in both.
fn reference(message: &[u8], answer: &Answer, out: &[u8]) -> Option<Message> {
    let mut reference = message.to_vec();
    reference[..4].copy_from_slice(&out[..4]);
    for at in answer.ttl_offsets() {
        if let Some(ttl) = out.get(at..at + 4) {
            reference[at..at + 4].copy_from_slice(ttl);
        }
    }
    let into_counts =
        message.windows(2).any(|octets| octets[0] == 0xc0 && (4..HEADER).contains(&usize::from(octets[1])));
    Message::from_vec(&reference).ok().filter(|_| !into_counts)
}

/// What goes out is a response to what was asked, and says what the upstream said, as far as it can be read at all.
fn is_told(message: &[u8], answer: &Answer, out: &[u8], asked: Asked, question: Question<'_>, limit: usize) {
    assert!(out.len() <= limit);
    assert_eq!(out[..2], asked.id.to_be_bytes());
    assert!(out[HEADER..].starts_with(question.as_bytes()));
    let Some(upstream) = reference(message, answer, out) else { return };
    let told = Message::from_vec(out).expect("what could be read can be read when it is told");
    assert!(told.edns.is_none() || asked.edns.is_some());
    let was_truncated = message[2] & 2 != 0;
    let whole = told.metadata.truncation == was_truncated;
    assert!(whole || told.metadata.truncation && told.answers.is_empty());
    if message[4..6] == [0, 0] {
        return; // a failure without its question: its code is all that is told
    }
    if whole && told.answers.len() == upstream.answers.len() {
        for (told, sent) in told.answers.iter().zip(&upstream.answers) {
            assert_eq!((&told.name, told.dns_class, &told.data), (&sent.name, sent.dns_class, &sent.data));
        }
    }
    assert!(!whole || told.metadata.truncation || told.answers.len() == upstream.answers.len());
}

/// What is kept is found as it was put in, for its lifetime, and for nobody who asked otherwise.
fn is_kept(answer: &Answer, asked: Asked, question: Question<'_>) {
    let (cache, now) = (&STAGE.0, STAGE.1);
    let key = Key::of(asked, question);
    cache.put(&key, asked, answer, now);
    match cache.get(&key, now) {
        Found::Fresh(hit) if answer.lifetime() > 0 && !answer.is_failure() => {
            assert!(hit.answer == *answer && hit.age == 0)
        }
        Found::Missing | Found::Failed(_) | Found::Stale(_) => {}
        // An answer of before, where this one is not to be kept.
        Found::Fresh(hit) => assert!(hit.answer.is_to(question)),
    }
    let later = now + Duration::from_secs(u64::from(answer.lifetime()));
    if answer.lifetime() > 0
        && let Found::Fresh(hit) = cache.get(&key, later)
    {
        assert!(hit.age < hit.answer.lifetime());
    }
}

/// What an NXDOMAIN says of names below (RFC 8020) is itself a message that can be read.
fn denies_names_below(answer: &Answer, question: Question<'_>) {
    let below = [b"\x01x", question.as_bytes()].concat();
    let Some(below) = Question::starting(&below) else { return };
    let Some(denial) = answer.for_name_below(below) else { return };
    let again = Answer::parse(denial.message(), below, BOUNDS).expect("it can be read");
    assert_eq!(again.message(), denial.message());
}
