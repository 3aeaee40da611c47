//! What the cache tells of itself. Counts are kept under the locks that a look takes anyway.

use std::fmt;
use std::sync::PoisonError;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Shards;
use super::shard::Counts;

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (mut counts, mut entries, mut octets) = (Counts::default(), 0, 0);
        for shard in &self.0 {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            counts.add(&shard.counts);
            entries += shard.entries() as u64;
            octets += shard.allocated() as u64;
        }
        for (name, help, value) in [
            ("cache_hits", "Queries answered from the cache", counts.hits),
            ("cache_misses", "Queries that the cache could not answer", counts.misses),
            ("cache_stale_hits", "Queries for which the cache had an answer that has ended", counts.stale),
            ("cache_failure_hits", "Queries answered with a failure remembered", counts.failures),
            ("cache_prefetches", "Entries in use that were about to end", counts.refreshes),
            ("cache_evictions", "Entries that had to make room", counts.evictions),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, unit, value) in [
            ("cache_entries", "Entries in the cache", None, entries),
            ("cache_size", "Memory that cached answers take", Some(&Unit::Bytes), octets),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.stale += other.stale;
        self.failures += other.failures;
        self.refreshes += other.refreshes;
        self.evictions += other.evictions;
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shards({})", self.0.len())
    }
}
