//! Why two decoders differ.

use std::ops::Range;

use super::mutation::{Kind, Sample};
use super::reading::{Decoder, Outcome, Reading};

/// A kind of difference, and where it stands that the proxy is right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub what: &'static str,
    pub rfc: &'static str,
}

/// What others refuse and the proxy takes.
const DATA: Difference = Difference {
    what: "refuses what stands in the data of a record, or of an EDNS option, which a forwarder does not look into",
    rfc: "RFC 3597 §3, RFC 5625 §4.3, RFC 6891 §6.1.2",
};
const NO_DATA: Difference =
    Difference { what: "refuses a record of a type that it does not know and without data", rfc: "RFC 3597 §5" };

/// What others take and the proxy refuses.
const NO_NAME: Difference = Difference {
    what: "takes a pointer into the header or a TTL, which are no names, and others in what is passed on",
    rfc: "RFC 1035 §4.1.4",
};
const CUT_OPTION: Difference = Difference { what: "takes an OPT whose last option is cut", rfc: "RFC 6891 §6.1.2" };
const NO_COOKIE: Difference =
    Difference { what: "takes a query with a cookie of a length that none has", rfc: "RFC 7873 §5.2.2" };

/// Why the outcome here is another than by a decoder's reading, `without` being its readings of the same message without
/// its data.
pub fn explain(
    decoder: Decoder,
    sample: &Sample,
    ours: &Outcome,
    reading: &Reading,
    without: &[Reading],
) -> Option<&'static Difference> {
    match (reading, ours.is_taken()) {
        (Reading::Malformed(_), true) if without.iter().any(|reading| reading.outcome(sample) == *ours) => Some(&DATA),
        (Reading::Malformed(_), true) => {
            let has_no_data = Reading::Malformed("InvalidEmptyRecord".to_owned());
            let is_met = *reading == has_no_data || without.first() == Some(&has_no_data);
            (decoder == Decoder::Hickory && is_met).then_some(&NO_DATA)
        }
        (Reading::Read(_), false) => {
            let found = Found::in_message(&sample.message);
            if found.leads_to_no_name {
                return Some(&NO_NAME);
            }
            if found.impossible_cookie && sample.kind == Kind::Query {
                return Some(&NO_COOKIE);
            }
            (found.cut_option && decoder == Decoder::Hickory).then_some(&CUT_OPTION)
        }
        _ => None,
    }
}

/// The message with every record but OPT made one of a type that nobody knows, and every option of OPT likewise, as far
/// as they can be found; then with each record alone so made, and by another such type, since names may have pointers into
/// types.
pub fn without_data(message: &[u8]) -> Vec<Vec<u8>> {
    const UNKNOWN: [[u8; 2]; 2] = [[0xff, 0], [0, 200]];
    let by_type = UNKNOWN.map(|unknown| {
        let mut all = message.to_vec();
        Records::of(message).for_each(|record| record.retype(&mut all, unknown));
        let each = Records::of(message).map(|record| {
            let mut alone = message.to_vec();
            record.retype(&mut alone, unknown);
            alone
        });
        std::iter::once(all).chain(each).collect::<Vec<_>>()
    });
    by_type.concat()
}

/// What can be seen in a message that decoders differ about.
#[derive(Default)]
struct Found {
    leads_to_no_name: bool,
    cut_option: bool,
    impossible_cookie: bool,
}

impl Found {
    fn in_message(message: &[u8]) -> Self {
        let mut found = Self::default();
        let ttls: Vec<_> = Records::of(message).map(|record| record.fixed + 4..record.fixed + 8).collect();
        // Of the question's name too: no other stands before it.
        found.leads_to_no_name |= leads_into(message, 12, &ttls);
        for record in Records::of(message) {
            found.leads_to_no_name |= leads_into(message, record.start, &ttls);
            let whole: usize = record.options(message).map(|at| 4 + word(message, at + 2).unwrap_or_default()).sum();
            found.impossible_cookie |= record.options(message).any(|at| has_impossible_cookie(message, at));
            found.cut_option |= record.is_opt && whole != record.end - record.fixed - 10;
        }
        found
    }
}

/// Whether the option at an offset is a cookie of neither 8 nor 16 to 40 octets.
fn has_impossible_cookie(message: &[u8], at: usize) -> bool {
    const COOKIE: usize = 10;
    word(message, at) == Some(COOKIE) && !matches!(word(message, at + 2), Some(8 | 16..=40))
}

/// Whether a pointer of the name at an offset leads into the header, or to a name that runs through one of these ranges.
fn leads_into(message: &[u8], mut at: usize, ranges: &[Range<usize>]) -> bool {
    for _ in 0..200 {
        let length = match message.get(at) {
            Some(length @ 1..0x40) => 1 + usize::from(*length),
            Some(0) => 1,
            Some(0xc0..) => 2,
            _ => return false,
        };
        if at < 12 || ranges.iter().any(|range| range.start < at + length && at < range.end) {
            return true;
        }
        match (message[at], word(message, at)) {
            (0, _) => return false,
            (0xc0.., Some(pointer)) => at = pointer & 0x3fff,
            _ => at += length,
        }
    }
    false
}

/// The records of a message, until the first that is cut.
struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: usize,
}

/// Where a record stands.
struct Record {
    start: usize,
    /// Its type, and what follows it.
    fixed: usize,
    end: usize,
    is_opt: bool,
}

impl<'a> Records<'a> {
    fn of(message: &'a [u8]) -> Self {
        let count = |at| word(message, at).unwrap_or_default();
        let behind_question = |at: Option<usize>, _| Some(behind_name(message, at?)? + 4);
        match (0..count(4)).fold(Some(12), behind_question) {
            Some(at) => Self { message, at, left: count(6) + count(8) + count(10) },
            None => Self { message, at: 0, left: 0 },
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.left = self.left.checked_sub(1)?;
        let (start, fixed) = (self.at, behind_name(self.message, self.at)?);
        let end = fixed + 10 + word(self.message, fixed + 8)?;
        self.message.get(..end)?;
        self.at = end;
        Some(Record { start, fixed, end, is_opt: word(self.message, fixed) == Some(41) })
    }
}

impl Record {
    /// Makes it, or its options, of another type.
    fn retype(&self, message: &mut [u8], to: [u8; 2]) {
        let options: Vec<usize> = self.options(message).collect();
        for at in if self.is_opt { options } else { vec![self.fixed] } {
            message[at..at + 2].copy_from_slice(&to);
        }
    }

    /// Where the whole options of an OPT begin.
    fn options(&self, message: &[u8]) -> impl Iterator<Item = usize> {
        let (mut at, end) = (self.fixed + 10, self.end);
        let is_opt = self.is_opt;
        std::iter::from_fn(move || {
            let this = at;
            let next = this + 4 + word(message, this + 2)?;
            at = next;
            (is_opt && next <= end).then_some(this)
        })
    }
}

fn word(message: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*message.get(at..)?.first_chunk()?)))
}

fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..0x40 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}
