//! Answers kept until their TTL ends, in wire form, bounded by bytes.
//!
//! Knows no clock: `now` is an argument. Eviction is quick_cache's S3-FIFO, which a burst of unique names does not flush.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quick_cache::Weighter;

use crate::wire::flag;
use crate::wire::name::{LONGEST, LowerName};
use crate::wire::request::{Asked, Question};
use crate::wire::response::Answer;

/// What tells one answer from another: name in lower case, type, class, DO and CD.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; LONGEST + 5],
    length: u16,
}

/// An answer found, and how old it is.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The answer.
    pub answer: Arc<Answer>,
    /// Its age, in whole seconds.
    pub age: u32,
}

/// The cache; shared by all workers.
pub struct Cache {
    entries: quick_cache::sync::Cache<Box<[u8]>, Entry, ByBytes>,
    metrics: Metrics,
}

#[derive(Clone)]
struct Entry {
    answer: Arc<Answer>,
    since: Instant,
}

#[derive(Clone)]
struct ByBytes;

struct Metrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl Key {
    /// The key of a question, whose name in lower case is given.
    pub fn of(asked: Asked, question: Question<'_>, lower: &LowerName) -> Self {
        let mut bytes = [0; LONGEST + 5];
        let name = lower.name().as_bytes();
        let (head, tail) = bytes.split_at_mut(name.len());
        head.copy_from_slice(name);
        tail[..4].copy_from_slice(&question.as_bytes()[question.as_bytes().len() - 4..]);
        tail[4] = u8::from(asked.dnssec_ok()) | u8::from(asked.has(flag::CD)) << 1;
        Self { bytes, length: u16::try_from(name.len() + 5).expect("a name has at most 255 octets") }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Weighter<Box<[u8]>, Entry> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, entry: &Entry) -> u64 {
        let offsets = entry.answer.ttl_offsets().len() * 2;
        let bytes = key.len() + entry.answer.message().len() + entry.answer.extended_errors().len() + offsets;
        bytes as u64 + OVERHEAD
    }
}

/// What an entry costs beside its own bytes: the slot, the Arc, three allocations.
const OVERHEAD: u64 = 256;

/// How large an answer with a handful of records is; only to size the table.
const TYPICAL_WEIGHT: u64 = 512;

impl Cache {
    /// A cache that holds so many bytes; none at all with 0.
    pub fn new(budget: u64, registry: &mut Registry) -> Self {
        let metrics = Metrics { hits: Counter::default(), misses: Counter::default(), bytes: Gauge::default() };
        registry.register("cache_hits", "Queries answered from the cache", metrics.hits.clone());
        registry.register("cache_misses", "Queries that the cache could not answer", metrics.misses.clone());
        registry.register_with_unit(
            "cache_size",
            "Memory that cached answers take",
            prometheus_client::registry::Unit::Bytes,
            metrics.bytes.clone(),
        );
        let items = usize::try_from(budget / TYPICAL_WEIGHT).unwrap_or(usize::MAX);
        Self { entries: quick_cache::sync::Cache::with_weighter(items, budget, ByBytes), metrics }
    }

    /// The answer to a question, if it has not ended.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Hit> {
        let hit = self.entries.get(key.as_bytes()).and_then(|entry| {
            let age = now.saturating_duration_since(entry.since);
            let fresh = age < Duration::from_secs(entry.answer.lifetime().into());
            fresh.then(|| Hit { answer: entry.answer, age: u32::try_from(age.as_secs()).unwrap_or(u32::MAX) })
        });
        let counter = if hit.is_some() { &self.metrics.hits } else { &self.metrics.misses };
        counter.inc();
        hit
    }

    /// Keeps an answer, if it may be kept and was asked with recursion desired (else it may lack what recursion finds).
    pub fn put(&self, key: &Key, asked: Asked, answer: &Arc<Answer>, now: Instant) {
        if answer.lifetime() == 0 || !asked.has(flag::RD) {
            return;
        }
        self.entries.insert(key.as_bytes().into(), Entry { answer: Arc::clone(answer), since: now });
        self.metrics.bytes.set(i64::try_from(self.entries.weight()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use crate::wire::request::Edns;
    use crate::wire::response::TtlBounds;

    const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };

    fn question(name: &str) -> Vec<u8> {
        [from_text(name), vec![0, 1, 0, 1]].concat()
    }

    fn key(name: &str, asked: Asked) -> Key {
        let bytes = question(name);
        let question = Question::starting(&bytes).unwrap();
        Key::of(asked, question, &LowerName::of(question.name()))
    }

    fn answer(name: &str, ttl: u32) -> Arc<Answer> {
        let question = question(name);
        let mut bytes = vec![0, 0, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        bytes.extend(&question);
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, 4, 192, 0, 2, 1]);
        let bounds = TtlBounds { min: 0, max: 86_400 };
        Arc::new(Answer::parse(&bytes, Question::starting(&question).unwrap(), bounds).unwrap())
    }

    fn cache(budget: u64) -> Cache {
        Cache::new(budget, &mut Registry::default())
    }

    #[test]
    fn an_answer_is_kept_for_its_lifetime_and_grows_older() {
        let (cache, start) = (cache(1 << 20), Instant::now());
        let key = key("www.example.com", ASKED);
        cache.put(&key, ASKED, &answer("www.example.com", 60), start);
        assert_eq!(cache.get(&key, start).unwrap().age, 0);
        assert_eq!(cache.get(&key, start + Duration::from_millis(59_900)).unwrap().age, 59);
        assert!(cache.get(&key, start + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn answers_with_and_without_dnssec_and_checking_are_kept_apart() {
        let (cache, now) = (cache(1 << 20), Instant::now());
        let with_do = Asked { edns: Some(Edns { udp_payload: 1232, version: 0, dnssec_ok: true }), ..ASKED };
        let with_cd = Asked { flags: flag::RD | flag::CD, ..ASKED };
        cache.put(&key("www.example.com", ASKED), ASKED, &answer("www.example.com", 60), now);
        assert!(cache.get(&key("www.example.com", ASKED), now).is_some());
        assert!(cache.get(&key("www.example.com", with_do), now).is_none());
        assert!(cache.get(&key("www.example.com", with_cd), now).is_none());
        assert!(cache.get(&key("ww.example.com", ASKED), now).is_none());
    }

    #[test]
    fn answers_without_a_lifetime_or_without_recursion_are_not_kept() {
        let (cache, now) = (cache(1 << 20), Instant::now());
        cache.put(&key("a.example", ASKED), ASKED, &answer("a.example", 0), now);
        assert!(cache.get(&key("a.example", ASKED), now).is_none());
        let not_recursive = Asked { flags: 0, ..ASKED };
        cache.put(&key("b.example", ASKED), not_recursive, &answer("b.example", 60), now);
        assert!(cache.get(&key("b.example", ASKED), now).is_none());
    }

    #[test]
    fn the_budget_bounds_the_memory_and_zero_keeps_nothing() {
        let (cache, now) = (cache(100_000), Instant::now());
        for index in 0..10_000 {
            let name = format!("n{index}.example");
            cache.put(&key(&name, ASKED), ASKED, &answer(&name, 60), now);
        }
        assert!(cache.entries.weight() <= 100_000);
        assert!(cache.entries.len() > 100);
        let none = Cache::new(0, &mut Registry::default());
        none.put(&key("a.example", ASKED), ASKED, &answer("a.example", 60), now);
        assert!(none.get(&key("a.example", ASKED), now).is_none());
    }
}
