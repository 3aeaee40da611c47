//! What is wrong with a message that is no query: for who counts it. Never asked of a valid one.

use super::cookie::Cookie;
use super::name::{leads_back, uncompressed_length};
use super::request::Question;
use super::{HEADER, Record, flag, option, read_u16, rtype};

/// The first thing that is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is shorter than a header, or its question is none: not DNS.
    NotDns,
    /// It is a response.
    NotAQuery,
    /// Its counts say what cannot be: no question or several (RFC 9619), or more records than there is message.
    Counts,
    /// A name is compressed where nothing stands before it, or its pointers do not lead back (RFC 1035 §4.1.4).
    Compression,
    /// Its OPT is not alone, not in the additional section, or not at the root (RFC 6891 §6.1.1), its options are cut, or has
    /// a cookie of an impossible length (RFC 7873 §5.2.2).
    Edns,
    /// Something follows the last record.
    Trailing,
}

impl Fault {
    /// For labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotDns => "not-dns",
            Self::NotAQuery => "not-a-query",
            Self::Counts => "impossible-counts",
            Self::Compression => "compression",
            Self::Edns => "bad-edns",
            Self::Trailing => "trailing-octets",
        }
    }

    /// The fault of a message; `None` where [`parse`](super::request::parse) reads it, or it is another operation than
    /// a query, which is answered NOTIMP.
    pub fn of(message: &[u8]) -> Option<Self> {
        let word = |at| read_u16(message, at).unwrap_or_default();
        if message.len() < HEADER {
            return Some(Self::NotDns);
        }
        if word(2) & flag::QR != 0 {
            return Some(Self::NotAQuery);
        }
        if word(2) & flag::OPCODE != 0 {
            return None;
        }
        if word(4) != 1 {
            return Some(Self::Counts);
        }
        let Some(question) = Question::starting(&message[HEADER..]) else {
            return Some(fault_of_question(&message[HEADER..]));
        };
        let before_additional = u32::from(word(6)) + u32::from(word(8));
        let records = before_additional + u32::from(word(10));
        fault_of_records(message, HEADER + question.as_bytes().len(), before_additional, records)
    }
}

/// What is wrong with what should be a question.
fn fault_of_question(bytes: &[u8]) -> Fault {
    let mut at = 0;
    while let Some(length @ 1..) = bytes.get(at).map(|length| usize::from(*length)) {
        match length {
            0xc0.. => return Fault::Compression,
            64.. => return Fault::NotDns,
            _ => at += 1 + length,
        }
    }
    // The name is too long or cut short, or type and class are missing.
    if uncompressed_length(bytes).is_some() { Fault::Counts } else { Fault::NotDns }
}

fn fault_of_records(message: &[u8], mut at: usize, before_additional: u32, records: u32) -> Option<Fault> {
    let mut has_opt = false;
    for index in 0..records {
        let Some(record) = Record::at(message, at) else { return Some(Fault::Counts) };
        if !leads_back(message, at) {
            return Some(Fault::Compression);
        }
        let misplaced = || index < before_additional || has_opt || message[at] != 0;
        let options = &message[record.rdata..record.end];
        let malformed = || !option::are_whole(options) || Cookie::among(options).is_err();
        if record.rtype == rtype::OPT && (misplaced() || malformed()) {
            return Some(Fault::Edns);
        }
        has_opt |= record.rtype == rtype::OPT;
        at = record.end;
    }
    (at != message.len()).then_some(Fault::Trailing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rcode;
    use crate::wire::name::from_text;
    use crate::wire::request::{Invalid, parse};
    use proptest::prelude::*;

    fn message(flags: u8, counts: [u8; 4], body: &[u8]) -> Vec<u8> {
        let [questions, answers, authorities, additionals] = counts;
        let header = [0, 7, flags, 0, 0, questions, 0, answers, 0, authorities, 0, additionals];
        [&header[..], body].concat()
    }

    fn question() -> Vec<u8> {
        [from_text("www.example.com"), vec![0, 1, 0, 1]].concat()
    }

    fn with_cookie(length: u8) -> Vec<u8> {
        [&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, length + 4, 0, 10, 0, length][..], &vec![1; length.into()]].concat()
    }

    const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

    #[test]
    fn each_fault_has_its_name() {
        let with = |rest: &[u8]| [&question()[..], rest].concat();
        // A record whose owner points at itself: the question ends at octet 33.
        let circle = with(&[&[0xc0, 33][..], &[0, 16, 0, 1, 0, 0, 0, 0, 0, 0]].concat());
        let ahead = with(&[&[0xc0, 40][..], &[0, 16, 0, 1, 0, 0, 0, 0, 0, 0]].concat());
        for (message, fault) in [
            (vec![0; 11], Some(Fault::NotDns)),
            (message(0, [1, 0, 0, 0], b"\x47ET / HTTP/1.1"), Some(Fault::NotDns)),
            (message(0x80, [1, 0, 0, 0], &question()), Some(Fault::NotAQuery)),
            (message(0, [0, 0, 0, 0], &question()), Some(Fault::Counts)),
            (message(0, [2, 0, 0, 0], &question()), Some(Fault::Counts)),
            (message(0, [1, 9, 0, 0], &question()), Some(Fault::Counts)),
            (message(0, [1, 0, 0, 0], &question()[..19]), Some(Fault::Counts)),
            (message(0, [1, 0, 0, 0], &[0xc0, 12, 0, 1, 0, 1]), Some(Fault::Compression)),
            (message(0, [1, 0, 0, 1], &circle), Some(Fault::Compression)),
            (message(0, [1, 0, 0, 1], &ahead), Some(Fault::Compression)),
            (message(0, [1, 0, 0, 2], &with(&[OPT, OPT].concat())), Some(Fault::Edns)),
            (message(0, [1, 1, 0, 0], &with(&OPT)), Some(Fault::Edns)),
            (message(0, [1, 0, 0, 0], &with(&[0])), Some(Fault::Trailing)),
            (message(0, [1, 0, 0, 1], &with(&OPT)), None),
            (message(0x28, [9, 9, 9, 9], &[]), None),
        ] {
            assert_eq!(Fault::of(&message), fault, "{message:?}");
        }
    }

    proptest! {
        /// Whatever is refused has a fault, and what is read has none.
        #[test]
        fn a_message_has_a_fault_where_it_is_refused_and_nowhere_else(
            flags in prop_oneof![4 => Just(1u8), 1 => any::<u8>()],
            counts in prop_oneof![Just([1u8, 0, 0, 0]), Just([1, 0, 0, 1]), any::<[u8; 4]>().prop_map(|counts| counts.map(|count| count % 3))],
            tail in prop_oneof![Just(Vec::new()), Just(OPT.to_vec()), (0u8..50).prop_map(with_cookie), prop::collection::vec(any::<u8>(), 0..40)],
            cut in 0usize..40,
        ) {
            let body = [question(), tail].concat();
            let message = message(flags, counts, &body[..body.len().saturating_sub(cut / 4)]);
            let refused = match parse(&message) {
                Ok(_) | Err(Invalid::Answered(_, Rcode::NOTIMP)) => false,
                Err(_) => true,
            };
            prop_assert_eq!(Fault::of(&message).is_some(), refused, "{:?}", message);
        }
    }
}
