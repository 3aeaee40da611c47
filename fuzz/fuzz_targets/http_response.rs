//! A response to DNS over HTTPS, as HTTP/2 brings it or as curl writes it: what is taken for an answer is one, and as old as
//! its head says.
#![no_main]

use dot_proxy::upstream::command::fuzzing::of_curl;
use dot_proxy::upstream::doh::fuzzing::answer;
use dot_proxy::wire::request::Question;
use dot_proxy::wire::response::{Answer, TtlBounds, answers};
use dot_proxy::wire::{HEADER, id};
use hyper::Response;
use hyper::http::response::Parts;
use libfuzzer_sys::fuzz_target;

const QUESTION: &[u8] = b"\x03wWw\x07example\x03com\0\0\x01\0\x01";
const BOUNDS: TtlBounds = TtlBounds { min: 0, max: u32::MAX };

fuzz_target!(|input: &[u8]| {
    let Some((how, input)) = input.split_first() else { return };
    let response = if how & 1 == 0 { of_http(input) } else { of_curl(input.to_vec()) };
    let Some((head, body)) = response else { return };
    let question = body.get(HEADER..).and_then(Question::starting);
    let question = question.or_else(|| Question::starting(QUESTION)).expect("the default is a question");
    let Some(message) = answer(&head, body.clone(), question) else { return };
    assert!(head.status == 200 && id(&message) == Some(0) && answers(&message, question));
    // The body is the same but for TTLs, none of which is longer.
    assert_eq!(message.len(), body.len());
    let read = |message| Answer::parse(message, question, BOUNDS).ok();
    let (Some(before), Some(after)) = (read(&body), read(&message)) else {
        assert!(read(&body).is_none() && read(&message).is_none());
        return;
    };
    let ttl = |answer: &Answer, at: usize| {
        u32::from_be_bytes(*answer.message()[at..].first_chunk().expect("it has four octets"))
    };
    assert!(before.ttl_offsets().eq(after.ttl_offsets()) && after.lifetime() <= before.lifetime());
    assert!(before.ttl_offsets().all(|at| ttl(&after, at) <= ttl(&before, at)));
});

/// A status in two octets, headers a line each, an empty line, the body.
fn of_http(input: &[u8]) -> Option<(Parts, Vec<u8>)> {
    let (status, mut rest) = input.split_first_chunk()?;
    let mut response = Response::builder().status(u16::from_be_bytes(*status));
    loop {
        let end = rest.iter().position(|octet| *octet == b'\n')?;
        let (line, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|octet| *octet == b':')?;
        response = response.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    let (head, ()) = response.body(()).ok()?.into_parts();
    Some((head, rest.to_vec()))
}
