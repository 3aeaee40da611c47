//! The DNS message on the wire (RFC 1035 §4), as far as a forwarder has to look into it.
//!
//! Borrowed views and writers into a caller's buffer; no tokio, no clock. What a record holds is never interpreted
//! (RFC 3597) but for the SOA's minimum, so unknown types pass untouched. Owners' compression pointers are followed to see
//! that they lead to prior names, and left as they are.
//!
//! ```text
//! client's bytes ──request──► Asked + Question ──query──► upstream's bytes ──response──► Answer ──reply──► client's bytes
//! ```

use std::fmt;

pub mod answer;
pub mod cookie;
mod denial;
pub mod fault;
pub mod name;
pub mod query;
pub mod reply;
pub mod request;
pub mod response;

/// Length of the header (RFC 1035 §4.1.1).
pub const HEADER: usize = 12;

/// The UDP payload that crosses every network unfragmented (DNS flag day 2020; RFC 9715).
pub const UDP_PAYLOAD: u16 = 1232;

/// UDP payload of a client without EDNS (RFC 1035 §4.2.1).
pub const UDP_PAYLOAD_WITHOUT_EDNS: u16 = 512;

/// Bits of the header's second 16-bit word (RFC 1035 §4.1.1, RFC 4035 §3).
pub mod flag {
    /// Response.
    pub const QR: u16 = 1 << 15;
    /// Authoritative answer.
    pub const AA: u16 = 1 << 10;
    /// Truncated.
    pub const TC: u16 = 1 << 9;
    /// Recursion desired.
    pub const RD: u16 = 1 << 8;
    /// Recursion available.
    pub const RA: u16 = 1 << 7;
    /// Authentic data.
    pub const AD: u16 = 1 << 5;
    /// Checking disabled.
    pub const CD: u16 = 1 << 4;
    /// The four bits of the operation code.
    pub const OPCODE: u16 = 0xf << 11;
    /// The four low bits of the response code.
    pub const RCODE: u16 = 0xf;
}

/// Record types that a forwarder must know.
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Pointer to a name.
    pub const PTR: u16 = 12;
    /// Host information (RFC 8482).
    pub const HINFO: u16 = 13;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// Signature (RFC 4034).
    pub const RRSIG: u16 = 46;
    /// Denial of existence (RFC 4034).
    pub const NSEC: u16 = 47;
    /// Denial of existence by hashes (RFC 5155).
    pub const NSEC3: u16 = 50;
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: u16 = 251;
    /// Zone transfer (RFC 5936).
    pub const AXFR: u16 = 252;
    /// All types (RFC 8482).
    pub const ANY: u16 = 255;
}

/// The class Internet.
pub const CLASS_IN: u16 = 1;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9). Values above 15 need EDNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// The question was answered.
    pub const NOERROR: Self = Self(0);
    /// The query could not be read.
    pub const FORMERR: Self = Self(1);
    /// The query could not be answered now.
    pub const SERVFAIL: Self = Self(2);
    /// The name does not exist.
    pub const NXDOMAIN: Self = Self(3);
    /// This kind of query is not answered here.
    pub const NOTIMP: Self = Self(4);
    /// The client is not served.
    pub const REFUSED: Self = Self(5);
    /// The EDNS version is not spoken here.
    pub const BADVERS: Self = Self(16);
    /// The query's cookie is not one that was made here (RFC 7873).
    pub const BADCOOKIE: Self = Self(23);

    /// The mnemonic, `other` for those that no label needs to tell apart.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NOERROR => "NOERROR",
            Self::FORMERR => "FORMERR",
            Self::SERVFAIL => "SERVFAIL",
            Self::NXDOMAIN => "NXDOMAIN",
            Self::NOTIMP => "NOTIMP",
            Self::REFUSED => "REFUSED",
            Self::BADVERS => "BADVERS",
            Self::BADCOOKIE => "BADCOOKIE",
            _ => "other",
        }
    }
}

/// The mnemonic, or RCODE and its number.
impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            "other" => write!(f, "RCODE{}", self.0),
            known => f.write_str(known),
        }
    }
}

/// An extended DNS error (RFC 8914).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedError {
    /// The INFO-CODE.
    pub code: u16,
    /// The EXTRA-TEXT, for a person.
    pub text: String,
}

impl ExtendedError {
    /// INFO-CODE 3, Stale Answer.
    pub const STALE_ANSWER: u16 = 3;
    /// INFO-CODE 19, Stale NXDOMAIN Answer.
    pub const STALE_NXDOMAIN_ANSWER: u16 = 19;
    /// INFO-CODE 22, No Reachable Authority.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// INFO-CODE 23, Network Error.
    pub const NETWORK_ERROR: u16 = 23;
    /// INFO-CODE 29, Synthesized.
    pub const SYNTHESIZED: u16 = 29;
    /// INFO-CODE 0, Other.
    pub const OTHER: u16 = 0;

    /// Short enough that header, the longest question and the text fit 512 octets.
    const LONGEST_TEXT: usize = 200;

    /// As an EDNS option: its head, and its text, which is cut where it is long.
    pub(crate) fn as_option(&self) -> ([u8; 6], &[u8]) {
        let text = &self.text[..self.text.floor_char_boundary(Self::LONGEST_TEXT)];
        let length = u16::try_from(text.len() + 2).expect("the text is bounded");
        let mut head = [0; 6];
        head.copy_from_slice([option::EXTENDED_ERROR, length, self.code].map(u16::to_be_bytes).as_flattened());
        (head, text.as_bytes())
    }
}

/// EDNS option codes.
pub(crate) mod option {
    /// DNS cookie (RFC 7873).
    pub(crate) const COOKIE: u16 = 10;
    /// edns-tcp-keepalive (RFC 7828).
    pub(crate) const TCP_KEEPALIVE: u16 = 11;
    /// Padding (RFC 7830).
    pub(crate) const PADDING: u16 = 12;
    /// Extended DNS error (RFC 8914).
    pub(crate) const EXTENDED_ERROR: u16 = 15;

    /// Each whole option of an OPT: its code, and all its octets with code and length before them.
    pub(crate) fn each(mut rdata: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        std::iter::from_fn(move || {
            let (code, length) = (super::read_u16(rdata, 0)?, super::read_u16(rdata, 2)?);
            let (this, rest) = rdata.split_at_checked(4 + usize::from(length))?;
            rdata = rest;
            Some((code, this))
        })
    }

    /// Whether the data of an OPT are options to their end (RFC 6891 §6.1.2).
    pub(crate) fn are_whole(rdata: &[u8]) -> bool {
        each(rdata).map(|(_, option)| option.len()).sum::<usize>() == rdata.len()
    }
}

pub(crate) fn read_u16(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub(crate) fn read_u32(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The id in a message's header, if there is a header.
pub fn id(message: &[u8]) -> Option<u16> {
    (message.len() >= HEADER).then(|| read_u16(message, 0)).flatten()
}

/// A record's fixed part, found by walking; offsets are into the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl_at: usize,
    pub(crate) ttl: u32,
    pub(crate) rdata: usize,
    pub(crate) end: usize,
}

impl Record {
    /// The record that starts at an offset; `None` where it runs over the end of the message.
    pub(crate) fn at(message: &[u8], start: usize) -> Option<Self> {
        let fixed = name::skip(message, start)?;
        let rdata = fixed + 10;
        let end = rdata + usize::from(read_u16(message, fixed + 8)?);
        if end > message.len() {
            return None;
        }
        Some(Self {
            start,
            rtype: read_u16(message, fixed)?,
            class: read_u16(message, fixed + 2)?,
            ttl_at: fixed + 4,
            ttl: read_u32(message, fixed + 4)?,
            rdata,
            end,
        })
    }

    /// The same, and `None` too where the owner's compression pointers lead nowhere or in circles.
    pub(crate) fn owned_at(message: &[u8], start: usize) -> Option<Self> {
        let record = Self::at(message, start)?;
        if !record.is_of_question(message) {
            name::follow(message, start, |_| ())?;
        }
        Some(record)
    }

    /// Whether the owner is a pointer to the question's name, as it is of nearly all.
    pub(crate) fn is_of_question(&self, message: &[u8]) -> bool {
        message.get(self.start..self.start + 2) == Some(&[0xc0, 12])
    }

    /// Whether the owner is the root, not compressed.
    pub(crate) fn is_of_root(&self, message: &[u8]) -> bool {
        message.get(self.start) == Some(&0)
    }
}

#[cfg(test)]
mod tests;
