//! The whole path of a client's query but for upstreams: what would be asked of them is answered SERVFAIL, since not one
//! query may wait.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy::cache::{Cache, Key, Settings};
use dot_proxy::clients::responses::ResponseLimit;
use dot_proxy::config::Resolved;
use dot_proxy::drops::Drops;
use dot_proxy::events::Events;
use dot_proxy::panics::Panics;
use dot_proxy::resolve::{Protocol, Resolver, Sender, Stages, Trust};
use dot_proxy::upstream::group::Group;
use dot_proxy::upstream::server;
use dot_proxy::wire::name::from_text;
use dot_proxy::wire::request::parse;
use dot_proxy::wire::response::{Answer, TtlBounds};
use dot_proxy_config::{Config, Responses};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Answers in the cache live so long, and are kept so long beyond.
pub const LIFETIME: Duration = Duration::from_secs(300);

const CONFIG: &str = r#"{upstream: {servers: ["tls://192.0.2.1#dns.example"]}, cluster: {domain: cluster.local},
    routes: [{suffixes: [cluster.local], servers: ["udp://192.0.2.2"]}]}"#;

/// A runtime on which nothing ever runs, so that nobody is reached.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs two descriptors")
}

/// A resolver with this cache. DNS cookies tell the time: with them two replies to one query may differ.
pub fn resolver(runtime: &Runtime, cache: Cache, cookies: bool) -> Arc<Resolver> {
    let written = Config::from_yaml(CONFIG).expect("the text is valid");
    let config = Resolved::from_written(&written).expect("it names no file");
    let metrics = server::Metrics::default();
    let handle = runtime.handle();
    let groups = config
        .groups
        .into_iter()
        .map(|group| Group::new(&group.name, group.servers, group.strategy, config.bounds, &metrics, handle.clone()));
    let stages = Stages {
        policy: config.policy,
        cache,
        router: config.router,
        groups: groups.collect(),
        events: Events::none(),
        panics: Panics::default(),
        deadline: config.deadline,
        in_flight: 0,
        in_flight_of_one: 0,
        cookies: config.cookies.filter(|_| cookies),
        responses: ResponseLimit::of(&Responses::default(), Instant::now()).into(),
        drops: Drops::new(&mut Registry::default()),
    };
    Arc::new(Resolver::new(stages, handle.clone(), &mut Registry::default()))
}

/// Who asks.
pub fn sender(protocol: Protocol) -> Sender {
    Sender { protocol, address: (Ipv4Addr::LOCALHOST, 40_000).into(), trust: Trust::Usual }
}

/// A cache of this many octets.
pub fn cache(budget: u64) -> Cache {
    Cache::new(Settings { budget, stale_for: LIFETIME, prefetch: true }, &mut Registry::default())
}

/// A cache that knows answers of every kind: a few records, more than a datagram takes, none, no such name, a failure.
pub fn filled_cache(now: Instant) -> Cache {
    let cache = cache(1 << 20);
    for (name, rcode, answers, has_soa) in [
        ("a.example", 0, 1, false),
        ("long.example", 0, 100, false),
        ("empty.example", 0, 0, true),
        ("no.example", 3, 0, true),
        ("bad.example", 2, 0, false),
    ] {
        for flags in [[1, 0], [1, 0x10]] {
            for opt in [&[][..], &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]] {
                let query = query(name, flags, opt);
                let (asked, question) = parse(&query).expect("the query is written here");
                let bounds = TtlBounds { min: 0, max: 86_400 };
                let response = response(question.as_bytes(), rcode, answers, has_soa);
                let answer = Answer::parse(&response, question, bounds).expect("the response is written here");
                cache.put(&Key::of(asked, question), asked, &answer, now.into_std());
            }
        }
    }
    cache
}

fn query(name: &str, flags: [u8; 2], opt: &[u8]) -> Vec<u8> {
    let head = [&[0, 7][..], &flags, &[0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())]].concat();
    [&head[..], &from_text(name), &[0, 1, 0, 1], opt].concat()
}

fn response(question: &[u8], rcode: u8, answers: u8, has_soa: bool) -> Vec<u8> {
    let mut message = vec![0, 0, 0x81, 0x80 | rcode, 0, 1, 0, answers, 0, u8::from(has_soa), 0, 1];
    message.extend(question);
    for last in 0..answers {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
    }
    if has_soa {
        message.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 1, 44, 0, 24, 0xc0, 12, 0xc0, 12]);
        message.extend([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 44]);
    }
    message.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\x0b\0\x0f\0\x07\0\x16silent?"[..22].iter());
    message
}
