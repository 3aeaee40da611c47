//! What the cache promises, told as scenarios with a clock of their own.

mod memory;

use super::*;
use crate::wire::name::from_text;
use crate::wire::request::{Edns, Question};
use crate::wire::response::TtlBounds;
use crate::wire::{ExtendedError, Rcode};
use proptest::prelude::*;
use std::collections::HashMap;

const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };
const WITH_DO: Asked =
    Asked { edns: Some(Edns { udp_payload: 1232, version: 0, dnssec_ok: true, cookie: None }), ..ASKED };
const WITH_CD: Asked = Asked { flags: flag::RD | flag::CD, ..ASKED };
const A: u16 = 1;
const AAAA: u16 = 28;
const HOUR: Duration = Duration::from_secs(3600);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn question(name: &str, qtype: u16) -> Vec<u8> {
    [from_text(name), qtype.to_be_bytes().to_vec(), vec![0, 1]].concat()
}

/// A response with some records whose owner is the question's name.
fn response(
    name: &str,
    qtype: u16,
    rcode: u8,
    answers: &[(u16, u32, &[u8])],
    authorities: &[(u16, u32, &[u8])],
) -> Answer {
    let question = question(name, qtype);
    let count = |records: &[_]| u8::try_from(records.len()).unwrap();
    let mut bytes = vec![0, 0, 0x81, 0x80 | rcode, 0, 1, 0, count(answers), 0, count(authorities), 0, 0];
    bytes.extend(&question);
    for (rtype, ttl, rdata) in answers.iter().chain(authorities) {
        bytes.extend([0xc0, 12]);
        bytes.extend(rtype.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
        bytes.extend(*rdata);
    }
    let bounds = TtlBounds { min: 0, max: 604_800 };
    Answer::parse(&bytes, Question::starting(&question).unwrap(), bounds).unwrap()
}

fn address(name: &str, ttl: u32) -> Answer {
    response(name, A, 0, &[(A, ttl, &[192, 0, 2, 1])], &[])
}

/// An SOA whose names point into the question, as servers write them.
fn soa(ttl: u32) -> Vec<u8> {
    let mut rdata = vec![2, b'n', b's', 0xc0, 12, 0xc0, 12];
    rdata.extend([1, 2, 3, 4, ttl].iter().flat_map(|number: &u32| number.to_be_bytes()));
    rdata
}

fn nxdomain(name: &str, ttl: u32) -> Answer {
    response(name, A, 3, &[], &[(6, ttl, &soa(ttl))])
}

fn servfail(name: &str) -> Answer {
    response(name, A, 2, &[], &[])
}

/// A cache, driven by texts.
struct Driven(Cache);

impl Driven {
    fn new(budget: u64) -> Self {
        Self::with(Settings { budget, stale_for: HOUR, prefetch: true })
    }

    fn with(settings: Settings) -> Self {
        Self(Cache::new(settings, &mut Registry::default()))
    }

    fn get_as(&self, name: &str, qtype: u16, asked: Asked, now: Instant) -> Found {
        let question = question(name, qtype);
        self.0.get(&Key::of(asked, Question::starting(&question).unwrap()), now)
    }

    fn get(&self, name: &str, now: Instant) -> Found {
        self.get_as(name, A, ASKED, now)
    }

    fn put(&self, name: &str, answer: &Answer, now: Instant) {
        let question = question(name, A);
        self.0.put(&Key::of(ASKED, Question::starting(&question).unwrap()), ASKED, answer, now);
    }

    fn below(&self, name: &str, qtype: u16, asked: Asked, now: Instant) -> Option<Hit> {
        let question = question(name, qtype);
        self.0.nothing_below(&Key::of(asked, Question::starting(&question).unwrap()), now)
    }

    fn allocated(&self) -> usize {
        self.0.shards.0.iter().map(|shard| shard.lock().unwrap().allocated()).sum()
    }

    fn entries(&self) -> usize {
        self.0.shards.0.iter().map(|shard| shard.lock().unwrap().entries()).sum()
    }
}

fn is_fresh(found: &Found) -> bool {
    matches!(found, Found::Fresh(_))
}

fn fresh(found: Found) -> Hit {
    match found {
        Found::Fresh(hit) => hit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_kept_for_its_lifetime_and_grows_older() {
    let (cache, start) = (Driven::new(1 << 20), Instant::now());
    cache.put("www.example.com", &address("www.example.com", 60), start);
    assert_eq!(fresh(cache.get("www.example.com", start)).age, 0);
    assert_eq!(fresh(cache.get("WWW.example.COM", start + Duration::from_millis(59_900))).age, 59);
    assert!(matches!(cache.get("www.example.com", start + seconds(60)), Found::Stale(_)));
}

#[test]
fn a_reader_whose_clock_is_a_little_behind_finds_a_new_answer() {
    let (cache, start) = (Driven::new(1 << 20), Instant::now());
    cache.put("www.example.com", &address("www.example.com", 60), start + seconds(2));
    assert_eq!(fresh(cache.get("www.example.com", start)).age, 0);
}

#[test]
fn answers_with_and_without_dnssec_and_checking_and_of_other_types_are_kept_apart() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    cache.put("www.example.com", &address("www.example.com", 60), now);
    assert!(is_fresh(&cache.get("www.example.com", now)));
    for (name, qtype, asked) in [
        ("www.example.com", A, WITH_DO),
        ("www.example.com", A, WITH_CD),
        ("www.example.com", AAAA, ASKED),
        ("ww.example.com", A, ASKED),
        ("example.com", A, ASKED),
    ] {
        assert!(matches!(cache.get_as(name, qtype, asked, now), Found::Missing), "{name} {qtype}");
    }
}

#[test]
fn a_question_whose_hash_collides_is_a_miss() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    cache.put("www.example.com", &address("www.example.com", 60), now);
    let kept = question("www.example.com", A);
    let kept = Key::of(ASKED, Question::starting(&kept).unwrap());
    assert!(is_fresh(&cache.0.get(&kept, now)));
    for (name, qtype, asked) in [
        ("www.example.net", A, ASKED),
        ("www.example.com", AAAA, ASKED),
        ("www.example.com", A, WITH_DO),
        ("www.example.com", A, WITH_CD),
    ] {
        let other = question(name, qtype);
        let other = Key::of(asked, Question::starting(&other).unwrap()).with_hash_of(&kept);
        assert!(matches!(cache.0.get(&other, now), Found::Missing), "{name} {qtype}");
    }
}

#[test]
fn answers_without_a_lifetime_or_without_recursion_are_not_kept() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    cache.put("a.example", &address("a.example", 0), now);
    assert!(matches!(cache.get("a.example", now), Found::Missing));
    let bytes = question("b.example", A);
    let key = Key::of(ASKED, Question::starting(&bytes).unwrap());
    for answer in [address("b.example", 60), servfail("b.example")] {
        cache.0.put(&key, Asked { flags: 0, ..ASKED }, &answer, now);
        assert!(matches!(cache.get("b.example", now), Found::Missing));
    }
}

#[test]
fn an_answer_that_has_ended_is_stale_for_as_long_as_is_set_and_then_gone() {
    let (cache, start) = (Driven::new(1 << 20), Instant::now());
    cache.put("a.example", &address("a.example", 60), start);
    for after in [60, 61, 60 + 3599] {
        assert!(matches!(cache.get("a.example", start + seconds(after)), Found::Stale(Hit { refresh: true, .. })));
    }
    assert!(matches!(cache.get("a.example", start + seconds(60 + 3600)), Found::Missing));
    let never = Driven::with(Settings { budget: 1 << 20, stale_for: Duration::ZERO, prefetch: true });
    never.put("a.example", &address("a.example", 60), start);
    assert!(matches!(never.get("a.example", start + seconds(60)), Found::Missing));
}

#[test]
fn a_failure_is_remembered_for_a_second_and_longer_when_it_comes_again_and_again() {
    let (cache, mut now) = (Driven::new(1 << 20), Instant::now());
    for lasts in [1, 2, 4, 5, 5] {
        cache.put("a.example", &servfail("a.example"), now);
        assert!(matches!(cache.get("a.example", now), Found::Failed(Hit { refresh: false, .. })));
        assert!(matches!(cache.get("a.example", now + seconds(lasts) - Duration::from_millis(70)), Found::Failed(_)));
        now += seconds(lasts);
        assert!(matches!(cache.get("a.example", now), Found::Missing), "{lasts}");
    }
    now += seconds(60);
    cache.put("a.example", &servfail("a.example"), now);
    assert!(matches!(cache.get("a.example", now + seconds(1)), Found::Missing), "a minute later it is a first one");
}

#[test]
fn every_code_but_noerror_and_nxdomain_is_a_failure_and_the_proxys_own_can_be_remembered_too() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    for rcode in [1, 2, 4, 5, 6, 9, 15] {
        let name = format!("rcode{rcode}.example");
        cache.put(&name, &response(&name, A, rcode, &[], &[]), now);
        assert!(matches!(cache.get(&name, now), Found::Failed(_)), "{rcode}");
    }
    let bytes = question("own.example", A);
    let key = Key::of(ASKED, Question::starting(&bytes).unwrap());
    let cause = ExtendedError { code: ExtendedError::NETWORK_ERROR, text: "connection-refused".into() };
    let failure = Answer::failed(Question::starting(&bytes).unwrap(), Rcode::SERVFAIL, &cause);
    cache.0.put_failure(&key, &failure, now);
    let Found::Failed(hit) = cache.0.get(&key, now) else { panic!() };
    assert_eq!(hit.answer.rcode(), Rcode::SERVFAIL);
    assert!(hit.answer.extended_errors().ends_with(b"connection-refused"));
}

#[test]
fn a_failure_leaves_the_answer_that_is_kept_and_says_when_to_ask_again() {
    let (cache, start) = (Driven::new(1 << 20), Instant::now());
    cache.put("a.example", &address("a.example", 60), start);
    cache.put("a.example", &servfail("a.example"), start + seconds(59));
    assert!(is_fresh(&cache.get("a.example", start + seconds(59))));
    cache.put("a.example", &servfail("a.example"), start + seconds(61));
    let recheck = start + seconds(63);
    assert!(matches!(cache.get("a.example", recheck - seconds(1)), Found::Stale(Hit { refresh: false, .. })));
    assert!(matches!(cache.get("a.example", recheck), Found::Stale(Hit { refresh: true, .. })));
}

#[test]
fn an_answer_ends_the_row_of_failures() {
    let (cache, mut now) = (Driven::new(1 << 20), Instant::now());
    for _ in 0..4 {
        cache.put("a.example", &servfail("a.example"), now);
    }
    cache.put("a.example", &address("a.example", 1), now);
    assert!(is_fresh(&cache.get("a.example", now)));
    for _ in 0..100 {
        now += seconds(10);
        assert!(matches!(cache.get("a.example", now), Found::Stale(Hit { refresh: true, .. })));
    }
    now += seconds(1);
    assert!(matches!(cache.get("a.example", now), Found::Stale(Hit { refresh: true, .. })));
    cache.put("a.example", &servfail("a.example"), now);
    assert!(matches!(cache.get("a.example", now + seconds(1)), Found::Stale(Hit { refresh: true, .. })));
}

#[test]
fn an_entry_in_use_is_to_be_refreshed_once_when_it_is_about_to_end() {
    let (cache, start) = (Driven::new(1 << 20), Instant::now());
    let refreshes = |after: u64| fresh(cache.get("a.example", start + seconds(after))).refresh;
    cache.put("a.example", &address("a.example", 100), start);
    let told: Vec<u64> = [0, 50, 89, 90, 91, 99].into_iter().filter(|after| refreshes(*after)).collect();
    assert_eq!(told, [90]);
    // Refreshed, but nobody asks until it is about to end again: the second time in its lifetime is use.
    cache.put("a.example", &address("a.example", 100), start + seconds(92));
    let told: Vec<u64> = [189, 190, 191].into_iter().filter(|after| refreshes(*after)).collect();
    assert_eq!(told, [190]);
}

#[test]
fn nothing_is_refreshed_ahead_where_that_is_not_wanted() {
    let cache = Driven::with(Settings { budget: 1 << 20, stale_for: HOUR, prefetch: false });
    let start = Instant::now();
    cache.put("a.example", &address("a.example", 100), start);
    assert!((0..100).all(|after| !fresh(cache.get("a.example", start + seconds(after))).refresh));
}

#[test]
fn below_a_name_that_does_not_exist_there_is_nothing() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    cache.put("No.example", &nxdomain("No.example", 60), now);
    for name in ["no.example", "a.no.example", "b.a.NO.example"] {
        let hit = cache.below(name, AAAA, ASKED, now + seconds(10)).unwrap();
        assert_eq!((hit.age, hit.refresh, hit.answer.lifetime()), (10, false, 0), "{name}");
        assert_eq!(hit.answer.rcode(), Rcode::NXDOMAIN);
        let bytes = question(name, AAAA);
        assert!(hit.answer.is_to(Question::starting(&bytes).unwrap()));
    }
    for name in ["example", "", "xno.example", "o.example", "no.example.net"] {
        assert!(cache.below(name, A, ASKED, now).is_none(), "{name}");
    }
    assert!(cache.below("a.no.example", A, WITH_DO, now).is_none());
    assert!(cache.below("a.no.example", A, WITH_CD, now).is_none());
    assert!(cache.below("a.no.example", A, ASKED, now + seconds(60)).is_none());
}

#[test]
fn the_nxdomain_of_an_alias_s_target_denies_nothing_and_a_new_answer_ends_a_denial() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    let alias = response("a.example", A, 3, &[(5, 60, &[1, b'x', 0])], &[(6, 60, &soa(60))]);
    cache.put("a.example", &alias, now);
    assert!(is_fresh(&cache.get("a.example", now)));
    assert!(cache.below("x.a.example", A, ASKED, now).is_none());
    cache.put("b.example", &nxdomain("b.example", 60), now);
    assert!(cache.below("x.b.example", A, ASKED, now).is_some());
    cache.put("b.example", &address("b.example", 60), now);
    assert!(cache.below("x.b.example", A, ASKED, now).is_none());
}

#[test]
fn workers_that_look_while_others_put_and_evict_never_get_another_names_answer() {
    let (cache, now) = (Driven::new(40_000), Instant::now());
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let cache = &cache;
            scope.spawn(move || {
                for index in 0..3000 {
                    let put = format!("n{}.example", (index * 7 + worker) % 500);
                    cache.put(&put, &address(&put, 60), now);
                    let got = question(&format!("n{}.example", (index * 11 + worker) % 500), A);
                    let got = Question::starting(&got).unwrap();
                    if let Found::Fresh(hit) = cache.0.get(&Key::of(ASKED, got), now) {
                        assert!(hit.answer.is_to(got));
                    }
                }
            });
        }
    });
    cache.0.shards.0.iter().for_each(|shard| shard.lock().unwrap().check());
    assert!(cache.allocated() <= 40_000 && cache.entries() > 50);
}

#[test]
fn metrics_tell_what_was_found_and_what_is_kept() {
    let mut registry = Registry::with_prefix("dot_proxy");
    let settings = Settings { budget: 1 << 20, stale_for: HOUR, prefetch: true };
    let (cache, now) = (Driven(Cache::new(settings, &mut registry)), Instant::now());
    cache.put("a.example", &address("a.example", 100), now);
    cache.put("b.example", &servfail("b.example"), now);
    let looks = [
        ("a.example", 0),
        ("a.example", 95),
        ("a.example", 96),
        ("a.example", 100),
        ("b.example", 0),
        ("c.example", 0),
    ];
    for (name, after) in looks {
        cache.get(name, now + seconds(after));
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "dot_proxy_cache_hits_total 3",
        "dot_proxy_cache_misses_total 1",
        "dot_proxy_cache_stale_hits_total 1",
        "dot_proxy_cache_failure_hits_total 1",
        "dot_proxy_cache_prefetches_total 1",
        "dot_proxy_cache_evictions_total 0",
        "dot_proxy_cache_entries 2",
        &format!("dot_proxy_cache_size_bytes {}", cache.allocated()),
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Answer(u8, u32),
    Denial(u8, u32),
    Failure(u8),
    Get(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..40, 1u32..200).prop_map(|(name, ttl)| Step::Answer(name, ttl)),
        (0u8..40, 1u32..200).prop_map(|(name, ttl)| Step::Denial(name, ttl)),
        (0u8..40).prop_map(Step::Failure),
        (0u8..40).prop_map(Step::Get),
        (0u64..100).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a model that never evicts: what is found is what was put last and is of the age it should be.
    #[test]
    fn what_is_found_was_put_last_and_is_as_old_as_it_says(
        budget in 3_000u64..20_000, steps in prop::collection::vec(step(), 1..200),
    ) {
        let cache = Driven::new(budget);
        let start = Instant::now();
        let (mut passed, mut model) = (0, HashMap::new());
        for step in steps {
            let now = start + seconds(passed);
            match step {
                Step::Wait(count) => passed += count,
                Step::Answer(name, ttl) | Step::Denial(name, ttl) => {
                    let text = format!("n{name}.example");
                    let answer = if matches!(step, Step::Denial(..)) { nxdomain(&text, ttl) } else { address(&text, ttl) };
                    cache.put(&text, &answer, now);
                    model.insert(name, (answer, passed));
                }
                Step::Failure(name) => {
                    let text = format!("n{name}.example");
                    cache.put(&text, &servfail(&text), now);
                }
                Step::Get(name) => {
                    let text = format!("n{name}.example");
                    let known = model.get(&name);
                    match cache.get(&text, now) {
                        Found::Fresh(hit) => {
                            let (answer, since) = known.unwrap();
                            prop_assert_eq!(&hit.answer, answer);
                            prop_assert_eq!(u64::from(hit.age), passed - since);
                            prop_assert!(hit.age < answer.lifetime());
                        }
                        Found::Stale(hit) => {
                            let (answer, since) = known.unwrap();
                            prop_assert_eq!(&hit.answer, answer);
                            prop_assert!(passed - since >= u64::from(answer.lifetime()));
                        }
                        Found::Failed(hit) => prop_assert!(hit.answer.is_failure()),
                        Found::Missing => {}
                    }
                    if let Some(hit) = cache.below(&format!("x.{text}"), AAAA, ASKED, now) {
                        let (answer, since) = known.unwrap();
                        prop_assert!(answer.denies_name() && u64::from(hit.age) == passed - since);
                    }
                }
            }
            prop_assert!(cache.allocated() as u64 <= budget || cache.entries() == 0);
            for shard in &cache.0.shards.0 {
                shard.lock().unwrap().check();
            }
        }
    }
}
