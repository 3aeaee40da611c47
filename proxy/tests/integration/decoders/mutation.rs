//! Messages as real programs wrote them, damaged: always the same ones for a seed.

use data_encoding::BASE64;

use crate::numbers::Numbers;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Response,
}

/// A damaged message.
#[derive(Debug, Clone)]
pub struct Sample {
    pub kind: Kind,
    pub message: Vec<u8>,
    /// What was asked, if it is a response.
    pub question: Vec<u8>,
}

/// A message a line, in Base64: what fuzzing began with.
const QUERIES: &str = include_str!("../../../../fuzz/corpus/queries.b64");
const RESPONSES: &str = include_str!("../../../../fuzz/corpus/responses.b64");

/// What is asked where a message does not tell.
const QUESTION: &[u8] = b"\x03wWw\x07example\x03com\0\0\x01\0\x01";

/// Queries and responses in turn.
pub fn samples(seed: u64) -> impl Iterator<Item = Sample> {
    let messages = |text: &'static str| -> Vec<Vec<u8>> {
        text.split_whitespace().map(|line| BASE64.decode(line.as_bytes()).unwrap()).collect()
    };
    let (queries, responses) = (messages(QUERIES), messages(RESPONSES));
    let mut numbers = Numbers::from_seed(seed);
    let mut index = 0;
    std::iter::repeat_with(move || {
        index += 1;
        let (kind, from) = if index % 2 == 0 { (Kind::Query, &queries) } else { (Kind::Response, &responses) };
        let mut message = numbers.of(from).clone();
        let question = question(&message).unwrap_or(QUESTION).to_vec();
        for _ in 0..numbers.below(4) {
            damage(&mut message, &mut numbers, from);
        }
        message.truncate(4096);
        Sample { kind, message, question }
    })
}

/// The question of a message, where its name is one that can be asked.
fn question(message: &[u8]) -> Option<&[u8]> {
    let start = message.get(12..)?;
    let mut end = 0;
    loop {
        let length = usize::from(*start.get(end)?);
        end += 1 + length;
        if length > 63 || end > 255 {
            return None;
        }
        if length == 0 {
            return start.get(..end + 4);
        }
    }
}

/// Does one harm.
fn damage(message: &mut Vec<u8>, numbers: &mut Numbers, others: &[Vec<u8>]) {
    /// Root, labels, reserved label types, pointers; counts; OPT, and other types.
    const TELLING: &[u8] = &[0, 1, 2, 5, 6, 12, 15, 16, 41, 46, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff];
    if message.is_empty() {
        message.push(numbers.octet());
    }
    let at = numbers.below(message.len());
    let end = (at + 1 + numbers.below(16)).min(message.len());
    match numbers.below(16) {
        0 | 1 => message[at] ^= 1 << numbers.below(8),
        2 | 3 => message[at] = *numbers.of(TELLING),
        4 => message[at] = numbers.octet(),
        5 => message.insert(at, *numbers.of(TELLING)),
        6 => drop(message.drain(at..end)),
        7 => message.truncate(at),
        8 => message.extend(std::iter::repeat_with(|| numbers.octet()).take(end - at)),
        9 => drop(message.splice(at..at, message[at..end].to_vec())),
        10 => {
            let other = numbers.of(others);
            message.truncate(at);
            message.extend(&other[at.min(other.len())..]);
        }
        11 => set(message, at, &[0xc0 | numbers.octet() >> 6, numbers.octet()]),
        12 => {
            // A count, one up or down.
            let count = 4 + 2 * numbers.below(4) + 1;
            if let Some(count) = message.get_mut(count) {
                *count = if numbers.below(2) == 0 { count.wrapping_add(1) } else { count.wrapping_sub(1) };
            }
        }
        13 => add_record(message, numbers, &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]),
        14 => {
            let owner = [0xc0, u8::try_from(numbers.below(message.len()) & 0xff).unwrap()];
            add_record(message, numbers, &[&owner[..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat());
        }
        _ => {
            // The version, or the options, of an OPT.
            let options: &[&[u8]] =
                &[&[0, 4, 0, 10, 0, 0], &[0, 3, 0, 10, 0], &[0, 8, 0, 10, 0, 9, 1, 2, 3, 4], &[0, 0]];
            let head = [0, 0, 41, 4, 208, 0, *numbers.of(&[0, 0, 0, 1]), 0x80, 0];
            let record = [&head[..], *numbers.of(options)].concat();
            add_record(message, numbers, &record);
        }
    }
}

fn set(message: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = message.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// Appends a record and counts it, mostly in the additional section.
fn add_record(message: &mut Vec<u8>, numbers: &mut Numbers, record: &[u8]) {
    message.extend(record);
    let count = *numbers.of(&[7, 9, 11, 11, 11, 11]);
    if let Some(count) = message.get_mut(count) {
        *count = count.wrapping_add(1);
    }
}
