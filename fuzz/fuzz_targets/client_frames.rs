//! A TCP client's octets, in whatever pieces they come: the same queries are seen, and the same replies written, as when
//! they are cut into messages at leisure.
#![no_main]

use std::sync::{Arc, LazyLock};

use dot_fuzz::conversation::Conversation;
use dot_fuzz::resolver::{cache, resolver, runtime, sender};
use dot_proxy::listener::tcp::fuzzing::converse;
use dot_proxy::resolve::{Asking, Protocol, Resolver, Step};
use dot_proxy::wire::fault::Fault;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tokio::time::Instant;

static STAGE: LazyLock<(Runtime, Arc<Resolver>)> = LazyLock::new(|| {
    let runtime = runtime();
    let resolver = resolver(&runtime, cache(0), false);
    (runtime, resolver)
});

/// The longest query that is read (`listener::tcp`).
const LONGEST_QUERY: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((count, input)) = input.split_first() else { return };
    let (pieces, octets) = input.split_at(input.len().min(usize::from(count % 16)));
    let (_, resolver) = &*STAGE;
    let stream = Conversation::new(octets, pieces);
    let reason = converse(stream.clone(), resolver);
    assert_eq!((stream.written(), reason), expected(resolver, octets));
});

/// The replies to all messages up to the first that is no query, and why the connection is to end.
fn expected(resolver: &Arc<Resolver>, mut octets: &[u8]) -> (Vec<u8>, &'static str) {
    let mut replies = Vec::new();
    while let Some((length, rest)) = octets.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > LONGEST_QUERY {
            return (replies, "bad-frame");
        }
        let Some((message, rest)) = rest.split_at_checked(length) else { break };
        let (mut reply, recipient) = (Vec::new(), || panic!("no query may wait"));
        let step = resolver.begin(
            message,
            sender(Protocol::Tcp),
            Instant::now(),
            &mut reply,
            &mut Asking::default(),
            recipient,
        );
        if !matches!(step, Step::Ignore | Step::Withheld) {
            replies.extend(u16::try_from(reply.len()).expect("a reply fits").to_be_bytes());
            replies.extend(reply);
        }
        if matches!(step, Step::Ignore | Step::ReplyInvalid) {
            return (replies, Fault::of(message).map_or("bad-frame", Fault::as_str));
        }
        octets = rest;
    }
    (replies, "left")
}
