//! What the proxy makes of a message.

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use dot_proxy::config::Resolved;
use dot_proxy::events::Events;
use dot_proxy::resolve::{Asking, Protocol, Resolver, Sender, Step, Trust};
use dot_proxy::wire::request::{self, Asked, Question};
use dot_proxy::wire::response::{Answer, TtlBounds};
use dot_proxy::wire::{flag, reply};
use dot_proxy_config::Config;
use hickory_proto::op::Message;
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::mutation::{Kind, Sample};
use super::reading::{Edns, Outcome};

/// A resolver on a runtime that never runs, in which no query may wait for an upstream.
static RESOLVER: LazyLock<(Runtime, Arc<Resolver>)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config::from_yaml("upstream: {servers: [\"tls://192.0.2.1#dns.example\"]}").unwrap();
    let config = Resolved { in_flight: 0, ..Resolved::from_written(&config).unwrap() };
    let resolver = {
        let _entered = runtime.enter();
        dot_proxy::app::resolver(config, Events::none(), &mut Registry::default())
    };
    (runtime, Arc::new(resolver.0))
});

/// What comes of a message here.
pub fn outcome(sample: &Sample) -> Outcome {
    match sample.kind {
        Kind::Query => of_query(&sample.message),
        Kind::Response => of_response(&sample.message, &sample.question).unwrap_or(Outcome::Unusable),
    }
}

fn of_query(message: &[u8]) -> Outcome {
    let (mut out, recipient) = (Vec::new(), || panic!("no query may wait"));
    let address = (Ipv4Addr::LOCALHOST, 40_000).into();
    let sender = Sender { protocol: Protocol::Udp, address, trust: Trust::Usual };
    let step = RESOLVER.1.begin(message, sender, Instant::now(), &mut out, &mut Asking::default(), recipient);
    if step == Step::Ignore {
        assert!(out.is_empty());
        return Outcome::Ignored;
    }
    let reply = Message::from_vec(&out).unwrap();
    if reply.queries.is_empty() {
        return Outcome::Bare(reply.metadata.response_code.into());
    }
    let (asked, question) = request::parse(message).unwrap();
    assert!(out[12..].starts_with(question.as_bytes()));
    let edns = asked.edns.map(|edns| Edns {
        version: edns.version,
        dnssec_ok: edns.dnssec_ok,
        payload: edns.udp_payload.max(512),
    });
    let version = reply.edns.is_some() && u16::from(reply.metadata.response_code) == 16;
    assert_eq!(version, edns.is_some_and(|edns| edns.version != 0));
    Outcome::Asked(edns)
}

fn of_response(message: &[u8], question: &[u8]) -> Option<Outcome> {
    let question = Question::starting(question).unwrap();
    let answer = Answer::parse(message, question, TtlBounds { min: 0, max: 86_400 }).ok()?;
    let mut out = Vec::new();
    reply::answer(&mut out, Asked { id: 1, flags: flag::RD, edns: None }, question, &answer, 0, 65_535);
    let word = |at| u16::from_be_bytes([out[at], out[at + 1]]);
    let flags = word(2);
    Some(Outcome::Told { rcode: flags & flag::RCODE, truncated: flags & flag::TC != 0, answers: usize::from(word(6)) })
}
