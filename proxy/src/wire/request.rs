//! What a client sent.

use super::cookie::Cookie;
use super::name::{Name, uncompressed_length};
use super::{CLASS_IN, HEADER, Rcode, Record, UDP_PAYLOAD, UDP_PAYLOAD_WITHOUT_EDNS, flag, option, read_u16, rtype};

/// A question's bytes: name, type, class (RFC 1035 §4.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    bytes: &'a [u8],
}

/// What of a query, beside its question, decides how the reply looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The message's id.
    pub id: u16,
    /// The header's flags as they came.
    pub flags: u16,
    /// EDNS, if the client speaks it (RFC 6891).
    pub edns: Option<Edns>,
}

/// A client's EDNS parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The UDP payload that the client can take, in bytes.
    pub udp_payload: u16,
    /// EDNS version; 0 is the only one there is.
    pub version: u8,
    /// DO: DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// A DNS cookie: as it came, or as the reply is to have it (RFC 7873).
    pub cookie: Option<Cookie>,
}

/// Why a message is not taken as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Too short to answer, or itself a response: an answer would feed a loop or a reflection.
    Ignored,
    /// Answered by a bare header with this code.
    Answered(Asked, Rcode),
}

impl<'a> Question<'a> {
    /// The question that starts the slice, with an uncompressed name; what follows it is left out.
    pub fn starting(bytes: &'a [u8]) -> Option<Self> {
        let length = uncompressed_length(bytes)? + 4;
        Some(Self { bytes: bytes.get(..length)? })
    }

    /// Name, type and class as they stood in the message.
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// QNAME, its letters in the case they came in.
    pub fn name(self) -> Name<'a> {
        Name::checked(&self.bytes[..self.bytes.len() - 4])
    }

    /// QTYPE.
    pub fn qtype(self) -> u16 {
        read_u16(self.bytes, self.bytes.len() - 4).unwrap_or_default()
    }

    /// QCLASS.
    pub fn class(self) -> u16 {
        read_u16(self.bytes, self.bytes.len() - 2).unwrap_or_default()
    }

    /// Whether it asks in class IN.
    pub fn is_internet(self) -> bool {
        self.class() == CLASS_IN
    }

    /// Whether both ask the same, letter case aside.
    pub fn same_as(self, other: Question<'_>) -> bool {
        let (head, tail) = self.bytes.split_at(self.bytes.len() - 4);
        let Some((other_head, other_tail)) = other.bytes.split_at_checked(head.len()) else { return false };
        head.eq_ignore_ascii_case(other_head) && tail == other_tail
    }
}

impl Asked {
    /// Whether a flag of the header is set.
    pub fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// DO.
    pub fn dnssec_ok(self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The largest reply that this client takes over UDP, in bytes.
    pub fn udp_limit(self) -> usize {
        let payload = self.edns.map_or(UDP_PAYLOAD_WITHOUT_EDNS, |edns| {
            // RFC 6891 §6.2.3: values below 512 are treated as 512.
            edns.udp_payload.clamp(UDP_PAYLOAD_WITHOUT_EDNS, UDP_PAYLOAD)
        });
        usize::from(payload)
    }
}

/// Reads a query: one question, at most one OPT, nothing behind the last record.
pub fn parse(message: &[u8]) -> Result<(Asked, Question<'_>), Invalid> {
    if message.len() < HEADER {
        return Err(Invalid::Ignored);
    }
    let word = |at| read_u16(message, at).unwrap_or_default();
    let mut asked = Asked { id: word(0), flags: word(2), edns: None };
    if asked.has(flag::QR) {
        return Err(Invalid::Ignored);
    }
    if asked.flags & flag::OPCODE != 0 {
        return Err(Invalid::Answered(asked, Rcode::NOTIMP));
    }
    // RFC 9619: a query has exactly one question.
    let question = (word(4) == 1).then(|| Question::starting(&message[HEADER..])).flatten();
    let malformed = Invalid::Answered(asked, Rcode::FORMERR);
    let question = question.ok_or(malformed)?;
    let rest = &message[HEADER + question.as_bytes().len()..];
    asked.edns = match (word(6), word(8), word(10), rest) {
        // What nearly all queries are, read without a walk: no record, or an OPT without options.
        (0, 0, 0, []) => None,
        (0, 0, 1, [0, 0, 41, payload_0, payload_1, _, version, flags, _, 0, 0]) => Some(Edns {
            udp_payload: u16::from_be_bytes([*payload_0, *payload_1]),
            version: *version,
            dnssec_ok: flags & DNSSEC_OK != 0,
            cookie: None,
        }),
        (answers, authorities, additionals, _) => {
            let before_additional = u32::from(answers) + u32::from(authorities);
            let start = message.len() - rest.len();
            walk(message, start, before_additional, additionals).ok_or(malformed)?
        }
    };
    Ok((asked, question))
}

/// DO, in the third octet of an OPT's TTL (RFC 3225).
pub(super) const DNSSEC_OK: u8 = 0x80;

/// The OPT among the records from an offset on; `None` where they are malformed or do not end with the message.
fn walk(message: &[u8], mut at: usize, before_additional: u32, additionals: u16) -> Option<Option<Edns>> {
    let mut edns = None;
    for index in 0..before_additional + u32::from(additionals) {
        let record = Record::owned_at(message, at)?;
        at = record.end;
        if record.rtype == rtype::OPT {
            // RFC 6891 §6.1.1, §6.1.2: at most one, in the additional section, owned by the root, options to its end.
            let is_alone = index >= before_additional && edns.is_none();
            if !is_alone || !record.is_of_root(message) || !option::are_whole(&message[record.rdata..record.end]) {
                return None;
            }
            let [_extended_rcode, version, flags, _] = record.ttl.to_be_bytes();
            let cookie = Cookie::among(&message[record.rdata..record.end]).ok()?;
            edns = Some(Edns { udp_payload: record.class, version, dnssec_ok: flags & DNSSEC_OK != 0, cookie });
        }
    }
    (at == message.len()).then_some(edns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use proptest::prelude::*;

    fn message(flags: u16, counts: [u16; 4], body: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34];
        message.extend(flags.to_be_bytes());
        message.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        message.extend(body);
        message
    }

    fn question() -> Vec<u8> {
        let mut bytes = from_text("www.example.com");
        bytes.extend([0, 1, 0, 1]);
        bytes
    }

    fn opt(version: u8, flags: u8) -> Vec<u8> {
        vec![0, 0, 41, 0x10, 0, 0, version, flags, 0, 0, 0]
    }

    #[test]
    fn a_plain_query_is_read() {
        let bytes = message(flag::RD, [1, 0, 0, 0], &question());
        let (asked, question) = parse(&bytes).unwrap();
        assert_eq!((asked.id, asked.has(flag::RD), asked.edns), (0x1234, true, None));
        assert_eq!(
            (question.name().to_string().as_str(), question.qtype(), question.class()),
            ("www.example.com.", 1, 1)
        );
        assert_eq!(asked.udp_limit(), 512);
    }

    #[test]
    fn edns_is_read_and_its_payload_kept_between_512_and_1232() {
        let bytes = message(0, [1, 0, 0, 1], &[question(), opt(0, 0x80)].concat());
        let (asked, _) = parse(&bytes).unwrap();
        assert_eq!(asked.edns, Some(Edns { udp_payload: 4096, version: 0, dnssec_ok: true, cookie: None }));
        assert_eq!(asked.udp_limit(), 1232);
        let small = Asked { edns: Some(Edns { udp_payload: 0, version: 0, dnssec_ok: false, cookie: None }), ..asked };
        assert_eq!(small.udp_limit(), 512);
    }

    #[test]
    fn what_is_a_response_or_shorter_than_a_header_is_ignored() {
        assert_eq!(parse(&message(flag::QR, [1, 0, 0, 0], &question())), Err(Invalid::Ignored));
        assert_eq!(parse(&[0; 11]), Err(Invalid::Ignored));
    }

    #[test]
    fn other_operations_are_not_implemented() {
        let bytes = message(5 << 11, [1, 0, 0, 0], &question());
        assert!(matches!(parse(&bytes), Err(Invalid::Answered(_, Rcode::NOTIMP))));
    }

    #[test]
    fn a_cookie_is_read_and_one_of_an_impossible_length_makes_the_query_malformed() {
        let with = |length: u8| {
            let option = [&[0, 10, 0, length][..], &vec![7; length.into()]].concat();
            let opt = [&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, length + 4][..], &option].concat();
            message(0, [1, 0, 0, 1], &[question(), opt].concat())
        };
        let cookie = |server| Some(Cookie { client: [7; 8], server });
        for (length, expected) in [(8, cookie(None)), (24, cookie(Some([7; 16]))), (40, cookie(None))] {
            assert_eq!(parse(&with(length)).unwrap().0.edns.unwrap().cookie, expected, "{length}");
        }
        for length in [0, 7, 9, 15, 41] {
            assert!(matches!(parse(&with(length)), Err(Invalid::Answered(_, Rcode::FORMERR))), "{length}");
        }
    }

    #[test]
    fn malformed_queries_are_told_apart_from_valid_ones() {
        let two_questions = [question(), question()].concat();
        let trailing = [question(), vec![0]].concat();
        let two_opts = [question(), opt(0, 0), opt(0, 0)].concat();
        let pointer_question = [0xc0, 12, 0, 1, 0, 1];
        for (counts, body) in [
            ([0, 0, 0, 0], &[][..]),
            ([2, 0, 0, 0], &two_questions),
            ([1, 0, 0, 0], &trailing),
            ([1, 0, 0, 1], &question()),
            ([1, 0, 0, 2], &two_opts),
            ([1, 0, 1, 0], &[question(), opt(0, 0)].concat()),
            ([1, 0, 0, 0], &pointer_question),
            ([1, 0, 0, 1], &[question(), vec![0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 5, 0, 10, 0, 2, 7]].concat()),
            ([1, 0, 0, 0], &question()[..10]),
        ] {
            let bytes = message(0, counts, body);
            assert!(matches!(parse(&bytes), Err(Invalid::Answered(_, Rcode::FORMERR))), "{counts:?}");
        }
    }

    #[test]
    fn a_query_with_a_record_whose_name_goes_in_circles_is_malformed() {
        let owned_by = |owner: &[u8]| {
            let record = [owner, &[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
            parse(&message(0, [1, 0, 0, 1], &[question(), record].concat())).map(|(asked, _)| asked.edns)
        };
        let at = u8::try_from(HEADER + question().len()).unwrap();
        assert_eq!(owned_by(&[0xc0, 12]), Ok(None));
        for loops in [&[0xc0, at][..], &[1, b'a', 0xc0, at], &[0xc0, at + 2, 0xc0, at], &[0xff, 0xff]] {
            assert!(matches!(owned_by(loops), Err(Invalid::Answered(_, Rcode::FORMERR))), "{loops:?}");
        }
    }

    #[test]
    fn questions_are_the_same_whatever_their_case_but_not_their_type() {
        let lower = question();
        let mut upper = lower.clone();
        upper[1..4].make_ascii_uppercase();
        let mut other = lower.clone();
        let last = other.len() - 3;
        other[last] = 28;
        let read = |bytes: &'static [u8]| Question::starting(bytes).unwrap();
        let (lower, upper, other) = (lower.leak(), upper.leak(), other.leak());
        assert!(read(lower).same_as(read(upper)));
        assert!(!read(lower).same_as(read(other)));
    }

    proptest! {
        /// The short way to read an OPT and the walk through all records say the same.
        #[test]
        fn an_opt_is_read_the_same_by_both_ways(
            mut opt in any::<[u8; 11]>(), owner in 0u8..2, usual in any::<[bool; 2]>(), cut in 0usize..3,
        ) {
            if usual[0] {
                opt[..3].copy_from_slice(&[owner, 0, 41]);
            }
            if usual[1] {
                opt[9..].fill(0);
            }
            let body = [&question(), &opt[..11 - cut / 2]].concat();
            let bytes = message(0, [1, 0, 0, 1], &body);
            let walked = walk(&bytes, HEADER + question().len(), 0, 1);
            prop_assert_eq!(parse(&bytes).ok().map(|(asked, _)| asked.edns), walked);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_bytes_behind_a_valid_start_are_read_or_refused_without_a_panic(
            counts in any::<[u8; 3]>(), tail in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = message(0, [1, counts[0].into(), counts[1].into(), counts[2].into()], &[question(), tail].concat());
            let _ = parse(&bytes);
        }
    }
}
