//! What kdig writes about its exchange: an answer is taken from it as it stands there, and only if kdig asked what it was to
//! ask.
#![no_main]

use dot_proxy::upstream::command::fuzzing::of_kdig;
use dot_proxy::wire::request::{Asked, Question};
use dot_proxy::wire::{flag, id};
use libfuzzer_sys::fuzz_target;

const QUESTIONS: [&[u8]; 3] =
    [b"\x03web\x07example\0\0\x01\0\x01", b"\x07nothing\x07example\0\0\x1c\0\x01", b"\x07example\0\0\x10\0\x01"];

fuzz_target!(|input: &[u8]| {
    let Some((how, tap)) = input.split_first() else { return };
    let question = Question::starting(QUESTIONS[usize::from(how & 15) % 3]).expect("it is one");
    let flags = if how & 16 == 0 { flag::RD } else { flag::RD | flag::CD };
    let Some(message) = of_kdig(tap.to_vec(), Asked { id: 1, flags, edns: None }, question) else { return };
    let is_there = |octets: &[u8]| octets.is_empty() || tap.windows(octets.len()).any(|window| window == octets);
    assert!(is_there(&message) && is_there(question.as_bytes()));
    // The query that it belongs to has the same id.
    let asked = [&id(&message).expect("it has a header").to_be_bytes()[..], &(flags | flag::AD).to_be_bytes(), &[0, 1]]
        .concat();
    assert!(is_there(&asked));
});
