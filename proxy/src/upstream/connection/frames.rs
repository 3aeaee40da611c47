//! Messages with their length before them (RFC 1035 §4.2.2, RFC 7858 §3.3).

use std::collections::hash_map::Entry;
use std::ops::Range;

use super::{InFlight, Query, State};
use crate::wire::query::{self, Privacy};
use crate::wire::request::Question;
use crate::wire::{self, flag, response};

/// Appends a query.
pub(super) fn write(out: &mut Vec<u8>, id: u16, query: Query<'_>, privacy: Privacy) {
    let start = out.len();
    out.extend([0, 0]);
    query::write(out, id, query.asked, query.question, privacy);
    let length = u16::try_from(out.len() - start - 2).expect("a query is a few hundred octets");
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

/// What has come in and was not yet handed on.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) bytes: Vec<u8>,
}

/// An answer, where it stands in what has come in, and who waits for it.
pub(super) struct Delivery {
    pub(super) waiting: InFlight,
    pub(super) message: Range<usize>,
}

impl Incoming {
    /// Finds every whole message, and who waits for it. A message that nobody waits for, or that answers another question,
    /// is passed over: what was asked may still be answered. Tells how many octets were looked at, and how many of the
    /// messages show that the server is at work: answers, be they too late.
    pub(super) fn match_up(&self, state: &mut State, deliveries: &mut Vec<Delivery>) -> (usize, u64) {
        let (mut at, mut answers) = (0, 0);
        while let Some(length) = wire::read_u16(&self.bytes, at) {
            let message = at + 2..at + 2 + usize::from(length);
            let Some(bytes) = self.bytes.get(message.clone()) else { break };
            at = message.end;
            match who_waits(state, bytes) {
                Found::Waiting(waiting) => deliveries.push(Delivery { waiting, message }),
                Found::Nobody => {}
                Found::NoAnswer => continue,
            }
            answers += 1;
        }
        (at, answers)
    }
}

enum Found {
    Waiting(InFlight),
    /// It may have been waited for.
    Nobody,
    NoAnswer,
}

fn who_waits(state: &mut State, message: &[u8]) -> Found {
    let (Some(id), Some(flags)) = (wire::id(message), wire::read_u16(message, 2)) else { return Found::NoAnswer };
    if flags & flag::QR == 0 {
        return Found::NoAnswer;
    }
    let Entry::Occupied(waiting) = state.in_flight.entry(id) else { return Found::Nobody };
    let fits = Question::starting(&waiting.get().question).is_some_and(|question| response::answers(message, question));
    if fits { Found::Waiting(waiting.remove()) } else { Found::NoAnswer }
}
