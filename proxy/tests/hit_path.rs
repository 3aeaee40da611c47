//! What a query costs that the cache answers, in allocations: a binary of its own, since the counter is its allocator.

use std::time::{Duration, Instant};

use allocation_counter::measure;
use dot_proxy::cache::{Cache, Found, Key, Settings};
use dot_proxy::policy::{Policy, Verdict};
use dot_proxy::wire::name::{LowerName, from_text};
use dot_proxy::wire::reply;
use dot_proxy::wire::request::parse;
use dot_proxy::wire::response::{Answer, TtlBounds};
use prometheus_client::registry::Registry;

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

/// The way of a query that the cache answers, into a buffer with room.
fn answered(cache: &Cache, query: &[u8], now: Instant, out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    let (asked, question) = parse(query).ok()?;
    match cache.get(&Key::of(asked, question), now) {
        Found::Fresh(hit) | Found::Failed(hit) => {
            reply::answer(out, asked, question, &hit.answer, hit.age, asked.udp_limit());
        }
        Found::Stale(hit) => reply::stale(out, asked, question, &hit.answer, asked.udp_limit()),
        Found::Missing => return None,
    }
    Some(())
}

#[test]
fn a_hit_allocates_nothing_be_it_fresh_stale_a_failure_or_too_long() {
    let settings = Settings { budget: 1 << 20, stale_for: LIFETIME, prefetch: true };
    let (cache, now) = (Cache::new(settings, &mut Registry::default()), Instant::now());
    let long = format!("{0}.{0}.{0}.example", "a-label-of-nearly-fifty-octets-for-a-long-question");
    let mut out = Vec::with_capacity(65_535);
    for (name, addresses, rcode) in [("a", 1, 0), ("www.example.com", 4, 0), (&long, 100, 0), ("failing.example", 0, 2)]
    {
        for edns in [false, true] {
            let query = query(name, edns);
            let (asked, question) = parse(&query).unwrap();
            let bounds = TtlBounds { min: 0, max: 86_400 };
            let answer = Answer::parse(&response(&query, addresses, rcode), question, bounds).unwrap();
            cache.put(&Key::of(asked, question), asked, &answer, now);
            let end = if rcode == 0 { LIFETIME } else { Duration::ZERO };
            for at in [now, now + end * 95 / 100, now + end] {
                let allocated = measure(|| answered(&cache, &query, at, &mut out).unwrap());
                assert_eq!(allocated.count_total, 0, "{name} {addresses} {edns}");
                assert!(out.len() > query.len() / 2);
            }
        }
    }
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
fn what_the_policy_answers_allocates_nothing() {
    let policy = Policy::new(Some(&"cluster.local".parse().unwrap()));
    let mut out = Vec::with_capacity(512);
    for name in ["www.example.com.cluster.local", "no-such-service", "localhost", "x.onion", "www.example.com"] {
        let query = query(name, true);
        let allocated = measure(|| {
            let (asked, question) = parse(&query).unwrap();
            let lower = LowerName::of(question.name());
            if let Verdict::Answer(own) = policy.judge(question, lower.name()) {
                reply::own(&mut out, asked, question, &own);
            }
        });
        assert_eq!(allocated.count_total, 0, "{name}");
        assert_eq!(out.is_empty(), name == "www.example.com", "{name}");
        out.clear();
    }
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
