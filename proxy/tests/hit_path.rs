//! What a query costs that the cache answers, in allocations: a binary of its own, since the counter is its allocator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program: what is wrong ends it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use dot_proxy::cache::{Cache, Found, Key, Settings};
use dot_proxy::clients::responses::ResponseLimit;
use dot_proxy::config::Resolved;
use dot_proxy::drops::Drops;
use dot_proxy::events::Events;
use dot_proxy::panics::Panics;
use dot_proxy::resolve::{Asking, Protocol, Resolver, Sender, Stages, Step, Trust};
use dot_proxy::upstream::group::Group;
use dot_proxy::upstream::server;
use dot_proxy::wire::name::from_text;
use dot_proxy::wire::reply;
use dot_proxy::wire::request::parse;
use dot_proxy::wire::response::{Answer, TtlBounds};
use dot_proxy_config::{Config, Responses};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;

const LIFETIME: Duration = Duration::from_secs(300);

fn query(name: &str, edns: bool) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    message.extend(from_text(name));
    message.extend([0, 1, 0, 1]);
    if edns {
        message.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    }
    message
}

/// As many addresses for a query's question, or a failure.
fn response(query: &[u8], addresses: u8, rcode: u8) -> Vec<u8> {
    let (_, question) = parse(query).expect("the query was written above");
    let mut message = vec![0, 0, 0x81, 0x80 | rcode, 0, 1, 0, addresses, 0, 0, 0, 0];
    message.extend(question.as_bytes());
    for last in 0..addresses {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
    }
    message
}

/// The whole path of a query, without sockets, around a cache that was filled before.
fn resolver(cache: Cache, runtime: &Runtime) -> Arc<Resolver> {
    let written =
        Config::from_yaml("{upstream: {servers: [\"tls://192.0.2.1#dns.example\"]}, cluster: {domain: cluster.local}}");
    let config = Resolved::from_written(&written.expect("the text is valid")).expect("it names no file");
    let metrics = server::Metrics::default();
    let groups = config.groups.into_iter().map(|group| {
        Group::new(&group.name, group.servers, group.strategy, config.bounds, &metrics, runtime.handle().clone())
    });
    let stages = Stages {
        policy: config.policy,
        cache,
        router: config.router,
        groups: groups.collect(),
        events: Events::none(),
        panics: Panics::default(),
        deadline: config.deadline,
        in_flight: config.in_flight,
        in_flight_of_one: config.clients.in_flight,
        cookies: config.cookies,
        responses: ResponseLimit::of(&Responses::default(), tokio::time::Instant::now()).into(),
        drops: Drops::new(&mut Registry::default()),
    };
    Arc::new(Resolver::new(stages, runtime.handle().clone(), &mut Registry::default()))
}

#[test]
fn a_hit_allocates_nothing_be_it_fresh_remembered_too_long_or_the_proxys_own() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let settings = Settings { budget: 1 << 20, stale_for: LIFETIME, prefetch: true };
    let (cache, now) = (Cache::new(settings, &mut Registry::default()), tokio::time::Instant::now());
    let long = format!("{0}.{0}.{0}.example", "a-label-of-nearly-fifty-octets-for-a-long-question");
    let mut queries = Vec::new();
    for (name, addresses, rcode) in [("a", 1, 0), ("www.example.com", 4, 0), (&long, 100, 0), ("failing.example", 0, 2)]
    {
        for edns in [false, true] {
            let query = query(name, edns);
            let (asked, question) = parse(&query).unwrap();
            let bounds = TtlBounds { min: 0, max: 86_400 };
            let answer = Answer::parse(&response(&query, addresses, rcode), question, bounds).unwrap();
            cache.put(&Key::of(asked, question), asked, &answer, now.into_std());
            queries.push(query);
        }
    }
    // Answered by policy, refused, no query at all.
    queries.push(query("www.example.com.cluster.local", true));
    queries.push(query("localhost", false));
    queries.push([&query("two.example", false)[..], &[0; 7]].concat());
    queries.push(vec![0; 5]);
    let resolver = resolver(cache, &runtime);
    // As at the start; that the runtime never runs keeps it from reaching anybody.
    resolver.warm_up();
    let (mut out, mut asking) = (Vec::with_capacity(65_535), Asking::default());
    for query in &queries {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let sender = Sender { protocol, address: "127.0.0.1:40000".parse().unwrap(), trust: Trust::Usual };
            let mut step = Step::Waiting;
            let allocated = measure(|| {
                out.clear();
                let recipient = || panic!("nothing has to be asked");
                step = resolver.begin(query, sender, now, &mut out, &mut asking, recipient);
            });
            assert_eq!(allocated.count_total, 0, "{query:?}");
            assert!(matches!(step, Step::Ignore) == out.is_empty());
        }
    }
}

#[test]
fn a_stale_answer_is_found_and_written_without_an_allocation() {
    let settings = Settings { budget: 1 << 20, stale_for: LIFETIME, prefetch: true };
    let (cache, now) = (Cache::new(settings, &mut Registry::default()), Instant::now());
    let query = query("www.example.com", true);
    let (asked, question) = parse(&query).unwrap();
    let answer = Answer::parse(&response(&query, 4, 0), question, TtlBounds { min: 0, max: 86_400 }).unwrap();
    cache.put(&Key::of(asked, question), asked, &answer, now);
    let mut out = Vec::with_capacity(512);
    let allocated = measure(|| match cache.get(&Key::of(asked, question), now + LIFETIME) {
        Found::Stale(hit) => reply::stale(&mut out, asked, question, &hit.answer, 512),
        other => panic!("{other:?}"),
    });
    assert_eq!(allocated.count_total, 0);
    assert!(out.len() > query.len());
}

/// What the cache says that it takes.
fn told_size(registry: &Registry) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a String takes everything");
    let line = text.lines().find_map(|line| line.strip_prefix("cache_size_bytes "));
    line.and_then(|size| size.parse().ok()).expect("the cache tells its size")
}

#[test]
fn the_cache_takes_no_more_than_it_says_and_nothing_before_the_first_answer() {
    let settings = Settings { budget: 3 << 20, stale_for: LIFETIME, prefetch: true };
    let (mut registry, now) = (Registry::default(), Instant::now());
    let mut cache = None;
    let empty = measure(|| cache = Some(Cache::new(settings, &mut registry)));
    let cache = cache.expect("it was just made");
    assert!(empty.bytes_current < 10_000, "{empty:?}");
    let mut taken = 0;
    // Twice as many as fit.
    for index in 0..40_000 {
        let query = query(&format!("n{index}.bench.test"), false);
        let (asked, question) = parse(&query).unwrap();
        let response = response(&query, 1 + u8::from(index % 7 == 0) * 9, 0);
        let put = measure(|| {
            let answer = Answer::parse(&response, question, TtlBounds { min: 0, max: 86_400 }).unwrap();
            cache.put(&Key::of(asked, question), asked, &answer, now);
        });
        taken += put.bytes_current;
        if index % 1000 == 0 {
            let (taken, told) = (u64::try_from(taken).unwrap(), told_size(&registry));
            assert!(taken <= told && told <= settings.budget, "{index}: {taken} taken, {told} told");
        }
    }
    assert!(told_size(&registry) > settings.budget * 9 / 10);
    assert!(taken * 4 / 3 > i64::try_from(settings.budget).unwrap(), "{taken}: the budget is used");
}

#[test]
fn an_answer_is_one_allocation_and_cloning_it_none() {
    let query = query("www.example.com", true);
    let response = response(&query, 4, 0);
    let (_, question) = parse(&query).unwrap();
    let mut parsed = None;
    let allocated = measure(|| parsed = Answer::parse(&response, question, TtlBounds { min: 0, max: 86_400 }).ok());
    let answer = parsed.unwrap();
    assert_eq!(allocated.count_total, 1);
    assert!(u64::try_from(answer.allocated()).unwrap() >= allocated.bytes_total);
    assert_eq!(measure(|| drop(answer.clone())).count_total, 0);
}
