//! What a decoder makes of a message, and what should come of a message so read.

use std::fmt;

use super::mutation::{Kind, Sample};

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decoder {
    Hickory,
    Dnspython,
}

impl fmt::Display for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hickory => "hickory-proto",
            Self::Dnspython => "dnspython",
        })
    }
}

/// What a decoder makes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It objects, in its own words.
    Malformed(String),
    Read(Message),
}

/// What a decoder read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Names in lower case and wire form, with type and class.
    pub questions: Vec<Vec<u8>>,
    pub edns: Option<Edns>,
    /// With the upper bits that stand in the OPT.
    pub rcode: u16,
    pub answers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    pub version: u8,
    pub dnssec_ok: bool,
    /// 512 at least (RFC 6891 §6.2.3).
    pub payload: u16,
}

/// What comes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A client gets no reply.
    Ignored,
    /// A client gets a reply without a question, with this code.
    Bare(u16),
    /// A client's question is understood, and its EDNS.
    Asked(Option<Edns>),
    /// What an upstream sent is no answer.
    Unusable,
    /// What an upstream sent is told: its code, whether it was truncated, and its answers.
    Told { rcode: u16, truncated: bool, answers: usize },
}

impl Outcome {
    /// Whether the message is valid.
    pub fn is_taken(self) -> bool {
        matches!(self, Self::Asked(_) | Self::Told { .. })
    }
}

const QR: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const TC: u16 = 1 << 9;

impl Reading {
    /// What should come of a message that is read so. What stands in the header alone is taken from there.
    pub fn outcome(&self, sample: &Sample) -> Outcome {
        let Some([_, _, high, low]) = sample.message.first_chunk().filter(|_| sample.message.len() >= 12) else {
            return if sample.kind == Kind::Query { Outcome::Ignored } else { Outcome::Unusable };
        };
        let flags = u16::from_be_bytes([*high, *low]);
        match sample.kind {
            Kind::Query => self.of_query(flags),
            Kind::Response => self.of_response(flags, sample).unwrap_or(Outcome::Unusable),
        }
    }

    fn of_query(&self, flags: u16) -> Outcome {
        const FORMERR: u16 = 1;
        const NOTIMP: u16 = 4;
        match self {
            _ if flags & QR != 0 => Outcome::Ignored,
            _ if flags & OPCODE != 0 => Outcome::Bare(NOTIMP),
            Self::Read(Message { questions, edns, .. }) if questions.len() == 1 => Outcome::Asked(*edns),
            _ => Outcome::Bare(FORMERR),
        }
    }

    fn of_response(&self, flags: u16, sample: &Sample) -> Option<Outcome> {
        const NOERROR: u16 = 0;
        const NXDOMAIN: u16 = 3;
        let Self::Read(Message { questions, rcode, answers, .. }) = self else { return None };
        if flags & (QR | OPCODE) != QR || *rcode > 15 {
            return None;
        }
        let truncated = flags & TC != 0;
        match &questions[..] {
            [] if !matches!(*rcode, NOERROR | NXDOMAIN) => Some(Outcome::Told { rcode: *rcode, truncated, answers: 0 }),
            [question] if *question == in_lower_case(&sample.question) => {
                Some(Outcome::Told { rcode: *rcode, truncated, answers: *answers })
            }
            _ => None,
        }
    }
}

/// A question with its name in lower case, and not its type, which may look like letters.
pub fn in_lower_case(question: &[u8]) -> Vec<u8> {
    let mut question = question.to_vec();
    let name = question.len() - 4;
    question[..name].make_ascii_lowercase();
    question
}
