//! An upstream's answer as it is kept and shared: one allocation, whatever it holds.
//!
//! ```text
//! head: lifetime (4) │ octets of the message (2) │ number of TTLs (2) │ marks (1)
//! the message, without the upstream's OPT │ offsets of the TTLs in it (2 each) │ extended errors, as EDNS options
//! ```

use std::ops::Range;
use std::sync::Arc;

use super::request::Question;
use super::{ExtendedError, HEADER, Rcode, flag, name, read_u16};

/// An answer: wire bytes without the upstream's OPT, and where the TTLs stand in them. Cloning it copies no bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer(Arc<[u8]>);

/// What is known of an answer before it is written down.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outline {
    /// How long it may be kept, in seconds; 0 means not at all.
    pub(crate) lifetime: u32,
    /// Octets of its message.
    pub(crate) message: usize,
    /// Number of its TTLs.
    pub(crate) ttls: usize,
    /// Octets of its extended errors.
    pub(crate) extended_errors: usize,
    /// Whether it says that the name does not exist, rather than the name that an alias leads to.
    pub(crate) denies_name: bool,
}

/// The parts of an answer that is being written down; all are zero at first.
pub(crate) struct Parts<'a> {
    pub(crate) message: &'a mut [u8],
    ttl_offsets: &'a mut [u8],
    pub(crate) extended_errors: &'a mut [u8],
}

const HEAD: usize = 9;

/// The mark of an answer that denies the name.
const DENIES_NAME: u8 = 1;

/// What an allocation of an `Arc<[u8]>` holds before the octets: two counts.
const COUNTS: usize = 2 * size_of::<usize>();

impl Answer {
    /// Writes an answer down. `None` where a message or what belongs to it is longer than 16 bits can say.
    pub(crate) fn write(outline: &Outline, fill: impl FnOnce(&mut Parts<'_>)) -> Option<Self> {
        let Outline { lifetime, message, ttls, extended_errors, denies_name } = *outline;
        let lengths = [u16::try_from(message).ok()?.to_be_bytes(), u16::try_from(ttls).ok()?.to_be_bytes()];
        u16::try_from(extended_errors).ok()?;
        // An iterator of known length is collected into the one allocation that it takes.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, HEAD + message + 2 * ttls + extended_errors).collect();
        let unshared = Arc::get_mut(&mut bytes).expect("it was made here and given to nobody");
        let (head, body) = unshared.split_at_mut(HEAD);
        head[..4].copy_from_slice(&lifetime.to_be_bytes());
        head[4..8].copy_from_slice(lengths.as_flattened());
        head[8] = if denies_name { DENIES_NAME } else { 0 };
        let (message, body) = body.split_at_mut(message);
        let (ttl_offsets, extended_errors) = body.split_at_mut(2 * ttls);
        fill(&mut Parts { message, ttl_offsets, extended_errors });
        Some(Self(bytes))
    }

    /// A failure of the proxy's own, to be kept like one of an upstream's: no records, a code, and its cause.
    pub fn failed(question: Question<'_>, rcode: Rcode, cause: &ExtendedError) -> Self {
        let (head, text) = cause.as_option();
        let outline = Outline {
            message: HEADER + question.as_bytes().len(),
            extended_errors: head.len() + text.len(),
            ..Outline::default()
        };
        let written = Self::write(&outline, |parts| {
            parts.message[2..4].copy_from_slice(&(flag::QR | (rcode.0 & flag::RCODE)).to_be_bytes());
            parts.message[5] = 1;
            parts.message[HEADER..].copy_from_slice(question.as_bytes());
            let (at_head, at_text) = parts.extended_errors.split_at_mut(head.len());
            at_head.copy_from_slice(&head);
            at_text.copy_from_slice(text);
        });
        written.expect("a question and a bounded text are far below 65,535 octets")
    }

    /// The message's bytes; id and letter case are the upstream's.
    pub fn message(&self) -> &[u8] {
        let (head, body) = self.split();
        body.get(..head.message).unwrap_or_default()
    }

    /// The message up to its additional section, the header's count of which is left as it is.
    pub(crate) fn without_additionals(&self) -> &[u8] {
        let message = self.message();
        let count = |at| usize::from(read_u16(message, at).unwrap_or_default());
        let end = match (count(6) + count(8)).checked_sub(1) {
            None => self.question().map(|question| HEADER + question.as_bytes().len()),
            // Behind a TTL stand the length of the data, and the data.
            Some(last) => self.ttl_offsets().nth(last).map(|ttl_at| ttl_at + 6 + count(ttl_at + 4)),
        };
        end.and_then(|end| message.get(..end)).unwrap_or(message)
    }

    /// Where in the message TTLs stand.
    pub fn ttl_offsets(&self) -> impl ExactSizeIterator<Item = usize> {
        self.offsets().iter().map(offset)
    }

    /// Whether no owner's name has a part in a TTL, be it by a pointer: with another TTL it would be another name.
    pub(crate) fn owners_stand_apart(&self) -> bool {
        let (message, offsets) = (self.message(), self.offsets());
        let is_in_a_ttl = |part: Range<usize>| {
            let first = offsets.partition_point(|at| offset(at) + 4 <= part.start);
            offsets.get(first).is_some_and(|at| offset(at) < part.end)
        };
        let mut start = HEADER + self.question().map_or(0, |question| question.as_bytes().len());
        self.ttl_offsets().all(|ttl_at| {
            let (owner, length) = (start, read_u16(message, ttl_at + 4).unwrap_or_default());
            start = ttl_at + 6 + usize::from(length);
            let mut stands_apart = true;
            name::follow(message, owner, |part| stands_apart &= !is_in_a_ttl(part)).is_some() && stands_apart
        })
    }

    fn offsets(&self) -> &[[u8; 2]] {
        let (head, body) = self.split();
        body.get(head.message..head.message + 2 * head.ttls).unwrap_or_default().as_chunks().0
    }

    /// The upstream's extended errors (RFC 8914) as EDNS options, to be passed on.
    pub fn extended_errors(&self) -> &[u8] {
        let (head, body) = self.split();
        body.get(head.message + 2 * head.ttls..).unwrap_or_default()
    }

    /// The INFO-CODEs of the upstream's extended errors.
    pub fn error_codes(&self) -> impl Iterator<Item = u16> {
        let mut options = self.extended_errors();
        std::iter::from_fn(move || {
            let (length, code) = (read_u16(options, 2)?, read_u16(options, 4)?);
            options = options.get(4 + usize::from(length)..)?;
            Some(code)
        })
    }

    /// How long it may be kept, in seconds; 0 means that it must not be.
    pub fn lifetime(&self) -> u32 {
        self.split().0.lifetime
    }

    /// Its response code.
    pub fn rcode(&self) -> Rcode {
        Rcode(self.flags() & flag::RCODE)
    }

    /// Whether it is a failure, which says nothing of the name: any code but NOERROR and NXDOMAIN (RFC 8767 §4).
    pub fn is_failure(&self) -> bool {
        !matches!(self.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
    }

    /// Whether it says that the name does not exist, and so none below it (RFC 8020). NXDOMAIN behind an alias is said
    /// of the name that the alias leads to.
    pub fn denies_name(&self) -> bool {
        self.split().0.marks & DENIES_NAME != 0
    }

    /// The question that it answers.
    pub fn question(&self) -> Option<Question<'_>> {
        Question::starting(self.message().get(HEADER..)?)
    }

    /// Whether it answers this question, letter case aside.
    pub fn is_to(&self, question: Question<'_>) -> bool {
        let asked = question.as_bytes();
        let Some(own) = self.message().get(HEADER..HEADER + asked.len()) else { return false };
        let ((name, rest), (own_name, own_rest)) = (asked.split_at(asked.len() - 4), own.split_at(asked.len() - 4));
        // Mostly the letter case is the same too.
        own_rest == rest && (own_name == name || own_name.eq_ignore_ascii_case(name))
    }

    /// Octets of the heap that it takes, with what the allocator adds (glibc: 8, in steps of 16).
    pub fn allocated(&self) -> usize {
        (COUNTS + self.0.len()).next_multiple_of(align_of::<usize>()).saturating_add(8).next_multiple_of(16).max(32)
    }

    pub(crate) fn flags(&self) -> u16 {
        read_u16(self.message(), 2).unwrap_or_default()
    }

    #[inline]
    fn split(&self) -> (Head, &[u8]) {
        let Some(([l0, l1, l2, l3, m0, m1, t0, t1, marks], body)) = self.0.split_first_chunk::<HEAD>() else {
            return (Head { lifetime: 0, message: 0, ttls: 0, marks: 0 }, &[]);
        };
        let head = Head {
            lifetime: u32::from_be_bytes([*l0, *l1, *l2, *l3]),
            message: usize::from(u16::from_be_bytes([*m0, *m1])),
            ttls: usize::from(u16::from_be_bytes([*t0, *t1])),
            marks: *marks,
        };
        (head, body)
    }
}

fn offset(octets: &[u8; 2]) -> usize {
    usize::from(u16::from_be_bytes(*octets))
}

struct Head {
    lifetime: u32,
    message: usize,
    ttls: usize,
    marks: u8,
}

impl Parts<'_> {
    /// Sets a TTL of the message, and notes its place as the `index`th.
    pub(crate) fn set_ttl(&mut self, index: usize, at: usize, ttl: u32) {
        self.message[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        let at = u16::try_from(at).expect("the message's length fits 16 bits");
        self.ttl_offsets[2 * index..2 * index + 2].copy_from_slice(&at.to_be_bytes());
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.question().map(|question| question.name().to_string());
        let lifetime = self.lifetime();
        write!(f, "Answer({name:?}, {}, {lifetime} s, {} octets)", self.rcode().as_str(), self.message().len())
    }
}
