//! A message of a client's: read, judged and answered on the whole path of a query, without upstreams.
#![no_main]

use std::sync::{Arc, LazyLock};

use dot_fuzz::resolver::{LIFETIME, filled_cache, resolver, runtime, sender};
use dot_proxy::resolve::{Asking, Protocol, Resolver, Step};
use dot_proxy::wire::query::{self, Privacy};
use dot_proxy::wire::request::{self, Asked, Question};
use dot_proxy::wire::{HEADER, flag};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tokio::time::Instant;

static STAGE: LazyLock<(Runtime, Arc<Resolver>, Instant)> = LazyLock::new(|| {
    let (runtime, start) = (runtime(), Instant::now());
    let resolver = resolver(&runtime, filled_cache(start), true);
    (runtime, resolver, start)
});

fuzz_target!(|input: &[u8]| {
    let Some((how, message)) = input.split_first() else { return };
    let (_, resolver, start) = &*STAGE;
    // Fresh, about to end, or stale.
    let now = *start + LIFETIME * u32::from(how >> 1 & 3) / 2;
    let protocol = if how & 1 == 0 { Protocol::Udp } else { Protocol::Tcp };
    let (mut out, mut asking) = (Vec::new(), Asking::default());
    let recipient = || panic!("no query may wait");
    let step = resolver.begin(message, sender(protocol), now, &mut out, &mut asking, recipient);
    let flags = |message: &[u8]| u16::from_be_bytes([message[2], message[3]]);
    if message.len() < HEADER || flags(message) & flag::QR != 0 {
        assert_eq!(step, Step::Ignore);
    }
    if step == Step::Ignore {
        assert!(out.is_empty());
        return;
    }
    assert_eq!(out[..2], message[..2]);
    let echoed = flag::RD | flag::CD;
    assert_eq!(flags(&out) & (flag::QR | flag::AA | echoed), flag::QR | flags(message) & echoed);
    let reply = Message::from_vec(&out).expect("a reply can be read");
    match request::parse(message) {
        Err(_) => {
            assert_eq!(out.len(), HEADER);
            assert_eq!(flags(&out) & flag::OPCODE, flags(message) & flag::OPCODE);
        }
        Ok((asked, question)) => {
            let limit = if protocol == Protocol::Udp { asked.udp_limit() } else { 65_535 };
            assert!(
                out.len() <= limit
                    && limit <= 65_535
                    && (asked.edns.is_some() || protocol == Protocol::Tcp || limit == 512)
            );
            assert!(out[HEADER..].starts_with(question.as_bytes()));
            assert_eq!(reply.edns.is_some(), asked.edns.is_some());
            is_asked_as_it_was(asked, question);
        }
    }
});

/// What would go to an upstream is a query for the same, whose length tells nothing.
fn is_asked_as_it_was(asked: Asked, question: Question<'_>) {
    for privacy in [Privacy::Encrypted, Privacy::Plain] {
        let mut out = Vec::new();
        query::write(&mut out, 7, asked, question, privacy);
        let (again, same) = request::parse(&out).expect("our own query is valid");
        assert_eq!(same, question);
        assert_eq!((again.dnssec_ok(), again.id), (asked.dnssec_ok(), 7));
        assert!(privacy == Privacy::Plain || out.len() % 128 == 0);
        assert!(Message::from_vec(&out).is_ok());
    }
}
