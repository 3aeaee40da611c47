//! Answers that were kept by somebody else before they came.

use super::{Counts, TtlBounds};
use crate::wire::request::Question;
use crate::wire::{HEADER, rtype};

/// Takes the time off the TTLs that a response has spent on its way in caches of the transport's, in seconds, and what those
/// caches would not keep of them (RFC 8484 §5.1). What cannot be read is left to who parses it.
pub fn shorten(response: &mut [u8], age: u32, fresh_for: Option<u32>) {
    let Some(question) = response.get(HEADER..).and_then(Question::starting) else { return };
    let unbounded = TtlBounds { min: 0, max: u32::MAX };
    let start = HEADER + question.as_bytes().len();
    let counts = Counts::of(response);
    let mut ttls = Vec::new();
    for (section, record) in counts.records(response, start) {
        if record.rtype != rtype::OPT
            && let Some(ttl) = unbounded.ttl(response, section, &record)
        {
            let ttl = ttl.saturating_sub(age);
            ttls.push((record.ttl_at, fresh_for.map_or(ttl, |fresh_for| ttl.min(fresh_for))));
        }
    }
    for (at, ttl) in ttls {
        response[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
    }
}
