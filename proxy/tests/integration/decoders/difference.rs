//! Why two decoders differ.

use super::mutation::Sample;
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
const HEADER: Difference = Difference {
    what: "takes a pointer into the header, which holds no name, and is another one in what is passed on",
    rfc: "RFC 1035 §4.1.4",
};
const COMPRESSED: Difference = Difference {
    what: "takes a question whose name is compressed, although no name stands before it",
    rfc: "RFC 1035 §4.1.4",
};
const CUT_OPTION: Difference = Difference { what: "takes an OPT whose last option is cut", rfc: "RFC 6891 §6.1.2" };

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
            match () {
                () if found.compressed_question => Some(&COMPRESSED),
                () if found.pointer_into_header => Some(&HEADER),
                () if found.cut_option && decoder == Decoder::Hickory => Some(&CUT_OPTION),
                () => None,
            }
        }
        _ => None,
    }
}

/// The message with every record but OPT made one of a type that nobody knows, and every option of OPT likewise, as far
/// as they can be found; then with each record alone so made, since names may have pointers into types.
pub fn without_data(message: &[u8]) -> Vec<Vec<u8>> {
    let each = Records::of(message).map(|record| {
        let mut alone = message.to_vec();
        record.retype(&mut alone);
        alone
    });
    let mut all = message.to_vec();
    Records::of(message).for_each(|record| record.retype(&mut all));
    std::iter::once(all).chain(each).collect()
}

/// What can be seen in a message that decoders differ about.
#[derive(Default)]
struct Found {
    compressed_question: bool,
    pointer_into_header: bool,
    cut_option: bool,
}

impl Found {
    fn in_message(message: &[u8]) -> Self {
        let mut found = Self::default();
        if word(message, 4).is_some_and(|questions| questions > 0) {
            let end = behind_name(message, 12);
            found.compressed_question =
                end.is_some_and(|end| message[end - 1] != 0 || end >= 14 && message[end - 2] >= 0xc0);
        }
        for record in Records::of(message) {
            found.pointer_into_header |= leads_into_header(message, record.start);
            let whole: usize = record.options(message).map(|at| 4 + word(message, at + 2).unwrap_or_default()).sum();
            found.cut_option |= record.is_opt && whole != record.end - record.fixed - 10;
        }
        found
    }
}

/// Whether a pointer of the name at an offset leads to less than 12.
fn leads_into_header(message: &[u8], mut at: usize) -> bool {
    for _ in 0..200 {
        match message.get(at) {
            Some(length @ 1..0x40) => at += 1 + usize::from(*length),
            Some(0xc0..) => match word(message, at) {
                Some(pointer) if pointer & 0x3fff < 12 => return true,
                Some(pointer) => at = pointer & 0x3fff,
                None => return false,
            },
            _ => return false,
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
    /// Makes it, or its options, of a type that nobody knows.
    fn retype(&self, message: &mut [u8]) {
        const UNKNOWN: [u8; 2] = [0xff, 0];
        let options: Vec<usize> = self.options(message).collect();
        for at in if self.is_opt { options } else { vec![self.fixed] } {
            message[at..at + 2].copy_from_slice(&UNKNOWN);
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
