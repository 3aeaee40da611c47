//! The zone `bench.test`, made up as it is asked: the number at the end of a name's first label is the last 24 bits of its
//! address, so that whoever asked can tell whether the answer is that name's.
//!
//! | name | lifetime of its address |
//! |---|---|
//! | `nI.bench.test` | an hour |
//! | `LABEL-I.miss.bench.test` | five minutes; for names that are asked once |
//! | `bI.brief.bench.test` | a second |
//! | `aIx.bench.test` | it does not exist, for a minute |

use std::net::Ipv4Addr;

/// Octets before the question (RFC 1035, 4.1.1).
const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// SOA at the root or the zone: primary and mailbox are the root, negative answers live for a minute.
const SOA: [u8; 22] = [0, 0, 0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 2, 88, 0, 1, 81, 128, 0, 0, 0, 60];

/// Which names are asked, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    /// `nI.bench.test`, over and over.
    Lasting { first: u64, count: u64 },
    /// `bI.brief.bench.test`, over and over.
    Brief { first: u64, count: u64 },
    /// `LABEL-I.miss.bench.test`, each once.
    Once { label: String },
    /// `aIx.bench.test`, over and over.
    Absent { count: u64 },
    /// Of a hundred 80 that last, 12 that do not exist, 4 brief ones and 4 that are asked once.
    Mixed { label: String },
}

/// In the number of a name: it does not exist.
const ABSENT: u64 = 1 << 63;

impl std::str::FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse().map_err(|_| format!("'{part}' is not a number"));
        match parts[..] {
            ["lasting", first, count] => Ok(Self::Lasting { first: number(first)?, count: number(count)?.max(1) }),
            ["brief", first, count] => Ok(Self::Brief { first: number(first)?, count: number(count)?.max(1) }),
            ["once", label] if !label.is_empty() && label.len() <= 30 => Ok(Self::Once { label: label.to_owned() }),
            ["absent", count] => Ok(Self::Absent { count: number(count)?.max(1) }),
            ["mixed", label] if !label.is_empty() && label.len() <= 30 => Ok(Self::Mixed { label: label.to_owned() }),
            _ => Err("use lasting:FIRST:COUNT, brief:FIRST:COUNT, once:LABEL, absent:COUNT or mixed:LABEL".to_owned()),
        }
    }
}

impl Names {
    /// Appends a query for the `index`th name's address, with RD set, and tells that name's number.
    pub(crate) fn query(&self, index: u64, id: u16, out: &mut Vec<u8>) -> u64 {
        match self {
            Self::Lasting { first, count } => question(b"n", first + index % count, b"", id, out),
            Self::Brief { first, count } => question(b"b", first + index % count, b"\x05brief", id, out),
            Self::Absent { count } => question(b"a", ABSENT | (index % count), b"", id, out),
            Self::Once { label } => question(label.as_bytes(), index, b"\x04miss", id, out),
            Self::Mixed { label } => match index % 100 {
                0..80 => question(b"n", index % 20_000, b"", id, out),
                80..92 => question(b"a", ABSENT | (index % 5_000), b"", id, out),
                92..96 => question(b"b", index % 2_000, b"\x05brief", id, out),
                _ => question(label.as_bytes(), index, b"\x04miss", id, out),
            },
        }
    }
}

/// Appends a query for the name with this number; tells the number.
fn question(prefix: &[u8], number: u64, rest: &[u8], id: u16, out: &mut Vec<u8>) -> u64 {
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    first_label(prefix, number, rest, out);
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\x05bench\x04test\0\0\x01\0\x01");
    number
}

fn first_label(prefix: &[u8], number: u64, rest: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.push(0);
    out.extend_from_slice(prefix);
    if rest == b"\x04miss" {
        out.push(b'-');
    }
    decimal(number & !ABSENT, out);
    if number & ABSENT != 0 {
        out.push(b'x');
    }
    out[start] = u8::try_from(out.len() - start - 1).expect("a label of at most 30 octets and a number fit 63");
}

fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The address of the name with this number.
pub(crate) fn address(number: u64) -> Ipv4Addr {
    let [.., a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

/// Whether this is a whole reply whose one address is that of `number`, or which says that the name does not exist.
pub(crate) fn answers(reply: &[u8], number: u64) -> bool {
    if number & ABSENT != 0 {
        let mut label = Vec::with_capacity(24);
        first_label(b"a", number, b"", &mut label);
        let said = reply.len() > HEADER && reply[2] & 0x82 == 0x80 && reply[3] & 15 == 3 && reply[4..8] == [0, 1, 0, 0];
        return said && reply[HEADER..].starts_with(&label);
    }
    let counts = |at: usize| reply.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    if counts(4) != Some(1) || counts(6) != Some(1) || reply[2] & 0x82 != 0x80 || reply[3] & 15 != 0 {
        return false;
    }
    let Some(after) = skip_name(reply, HEADER).and_then(|end| skip_name(reply, end + 4)) else { return false };
    // Type, class, lifetime, length, address.
    match reply.get(after..after + 14) {
        Some(record) => {
            record[..4] == [0, 1, 0, 1] && record[8..10] == [0, 4] && record[10..14] == address(number).octets()
        }
        None => false,
    }
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

/// Appends the reply to `query`, preceded by its length (RFC 1035, 4.2.2). False when it is no query: nothing is appended.
pub(crate) fn answer(query: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(question) = Question::read(query) else { return false };
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&query[..2]);
    out.extend_from_slice(&[0x84 | (query[2] & 1), 0x80 | (query[3] & 0x10), 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&query[HEADER..question.end]);
    match (question.number, question.kind) {
        (Some(number), TYPE_A) => {
            record(out, TYPE_A, question.lifetime, &address(number).octets());
            out[start + 2 + 7] = 1;
        }
        (Some(number), TYPE_AAAA) => {
            let mut data = [0; 16];
            data[0] = 0xfd;
            data[12..].copy_from_slice(&address(number).octets());
            record(out, TYPE_AAAA, question.lifetime, &data);
            out[start + 2 + 7] = 1;
        }
        (number, _) => {
            out.extend_from_slice(&[0, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22]); // its owner is the root
            out.extend_from_slice(&SOA);
            out[start + 2 + 9] = 1;
            if number.is_none() && question.in_zone {
                out[start + 2 + 3] |= 3;
            }
        }
    }
    if question.edns {
        out.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        out[start + 2 + 11] = 1;
    }
    let length = u16::try_from(out.len() - start - 2).expect("a reply is a question and one record");
    out[start..start + 2].copy_from_slice(&length.to_be_bytes());
    true
}

/// One record owned by the name of the question.
fn record(out: &mut Vec<u8>, kind: u16, lifetime: u32, data: &[u8]) {
    out.extend_from_slice(&[0xc0, 0x0c]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&lifetime.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).expect("an address").to_be_bytes());
    out.extend_from_slice(data);
}

/// What a query asks of this zone.
struct Question {
    /// Where the question ends.
    end: usize,
    kind: u16,
    /// The number that the name ends its first label with; none where the zone has no such name.
    number: Option<u64>,
    lifetime: u32,
    in_zone: bool,
    edns: bool,
}

impl Question {
    fn read(query: &[u8]) -> Option<Self> {
        if query.len() < HEADER || query[2] & 0x80 != 0 {
            return None;
        }
        let after = skip_name(query, HEADER)?;
        let kind = u16::from_be_bytes([*query.get(after)?, *query.get(after + 1)?]);
        let end = after + 4;
        if end > query.len() {
            return None;
        }
        let first = &query[HEADER + 1..];
        let first = first.get(..usize::from(query[HEADER]))?;
        let rest = query.get(HEADER + 1 + first.len()..after).unwrap_or_default().to_ascii_lowercase();
        let lifetime = match &rest[..] {
            b"\x05bench\x04test\0" => Some(3600),
            b"\x04miss\x05bench\x04test\0" => Some(300),
            b"\x05brief\x05bench\x04test\0" => Some(1),
            _ => None,
        };
        let edns = query.get(end..end + 3) == Some(&[0, 0, 41]);
        let number = lifetime.and_then(|_| trailing_number(first));
        let in_zone = rest.ends_with(b"\x05bench\x04test\0");
        Some(Self { end, kind, number, lifetime: lifetime.unwrap_or(0), in_zone, edns })
    }
}

fn trailing_number(label: &[u8]) -> Option<u64> {
    let digits = label.iter().rev().take_while(|octet| octet.is_ascii_digit()).count();
    std::str::from_utf8(&label[label.len() - digits..]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(names: &str, index: u64) -> (u64, Vec<u8>) {
        let names: Names = names.parse().expect("these are names");
        let (mut query, mut reply) = (Vec::new(), Vec::new());
        let number = names.query(index, 0x1234, &mut query);
        assert!(answer(&query, &mut reply));
        assert_eq!(usize::from(u16::from_be_bytes([reply[0], reply[1]])), reply.len() - 2);
        (number, reply.split_off(2))
    }

    #[test]
    fn every_name_that_is_asked_has_the_address_of_its_number() {
        for (names, index, number) in
            [("lasting:5:10", 12, 7), ("brief:0:3", 4, 1), ("once:x7", 70_000, 70_000), ("once:x", 1 << 25, 1 << 25)]
        {
            let (found, reply) = reply(names, index);
            assert_eq!(found, number);
            assert!(answers(&reply, number), "{names}");
            assert!(!answers(&reply, number + 1), "{names}: another name's address is a wrong answer");
        }
    }

    #[test]
    fn that_a_name_does_not_exist_is_right_only_for_one_that_does_not() {
        let (number, good) = reply("absent:10", 13);
        assert!(answers(&good, number));
        assert!(!answers(&good, number + 1) && !answers(&good, number & !ABSENT));
        let (number, _) = reply("absent:10", 3);
        let (_, exists) = reply("lasting:3:1", 0);
        assert!(!answers(&exists, number));
    }

    #[test]
    fn of_a_hundred_mixed_names_all_are_answered_and_twelve_do_not_exist() {
        let replies = (0..100).map(|index| reply("mixed:x", index)).collect::<Vec<_>>();
        assert!(replies.iter().all(|(number, reply)| answers(reply, *number)));
        assert_eq!(replies.iter().filter(|(number, _)| number & ABSENT != 0).count(), 12);
    }

    #[test]
    fn a_failure_a_truncated_reply_and_a_query_are_no_answers() {
        let (number, good) = reply("lasting:0:10", 3);
        for (at, value) in [(3, 0x82), (2, 0x86), (2, 0x04), (7, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!answers(&bad, number), "octet {at} is {value}");
        }
        assert!((0..good.len()).all(|length| !answers(&good[..length], number)));
    }

    #[test]
    fn a_name_without_a_number_does_not_exist_and_another_zone_is_empty() {
        for (name, code) in [(&b"\x03www\x05bench\x04test\0"[..], 3), (b"\x03www\x07example\0", 0), (b"\0", 0)] {
            let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 1, 0, 1]].concat();
            let mut out = Vec::new();
            assert!(answer(&query, &mut out));
            assert_eq!((out[2 + 3] & 15, out[2 + 7], out[2 + 9]), (code, 0, 1));
        }
    }

    #[test]
    fn what_is_no_query_gets_no_reply() {
        let (_, reply) = reply("lasting:0:1", 0);
        let mut out = Vec::new();
        assert!(!answer(&reply, &mut out) && !answer(&reply[..12], &mut out) && !answer(b"", &mut out));
        assert!(out.is_empty());
    }
}
