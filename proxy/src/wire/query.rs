//! What is sent to an upstream.

use super::request::{Asked, Question};
use super::{UDP_PAYLOAD, flag, option};

/// How the query travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// Encrypted: padded, so that its length does not tell the name.
    Encrypted,
    /// In the clear: padding would hide nothing.
    Plain,
}

/// RFC 8467 §4.1: queries are padded to a multiple of 128 octets.
const BLOCK: usize = 128;

/// Writes the query for a question, as this proxy asks it: RD, CD and DO as the client asked, AD set so that the answer
/// tells whether it was validated (RFC 6840 §5.7), and no EDNS option of the client's, so that nothing identifies it.
pub fn write(out: &mut Vec<u8>, id: u16, asked: Asked, question: Question<'_>, privacy: Privacy) {
    let start = out.len();
    out.extend(id.to_be_bytes());
    out.extend(((asked.flags & (flag::RD | flag::CD)) | flag::AD).to_be_bytes());
    out.extend([0, 1, 0, 0, 0, 0, 0, 1]);
    out.extend(question.as_bytes());
    out.extend([0, 0, 41]);
    out.extend(UDP_PAYLOAD.to_be_bytes());
    out.extend([0, 0, if asked.dnssec_ok() { 0x80 } else { 0 }, 0]);
    let unpadded = out.len() - start + 2;
    match privacy {
        Privacy::Plain => out.extend([0, 0]),
        Privacy::Encrypted => {
            let padding = (unpadded + 4).next_multiple_of(BLOCK) - (unpadded + 4);
            let length = |bytes: usize| u16::try_from(bytes).expect("padding is shorter than a block").to_be_bytes();
            out.extend(length(padding + 4));
            out.extend(option::PADDING.to_be_bytes());
            out.extend(length(padding));
            out.resize(out.len() + padding, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use crate::wire::request::{Edns, parse};
    use hickory_proto::op::Message;
    use hickory_proto::serialize::binary::BinDecodable;

    fn asked(flags: u16, dnssec_ok: bool) -> Asked {
        Asked { id: 7, flags, edns: Some(Edns { udp_payload: 4096, version: 0, dnssec_ok }) }
    }

    fn written(name: &str, asked: Asked, privacy: Privacy) -> Vec<u8> {
        let mut question = from_text(name);
        question.extend([0, 28, 0, 1]);
        let mut out = Vec::new();
        write(&mut out, 0xbeef, asked, Question::starting(&question).unwrap(), privacy);
        out
    }

    #[test]
    fn encrypted_queries_are_padded_to_blocks_whatever_the_name() {
        for length in 1..60 {
            let bytes =
                written(&format!("{}.example.com", "a".repeat(length)), asked(flag::RD, false), Privacy::Encrypted);
            assert_eq!(bytes.len() % BLOCK, 0);
            assert!(parse(&bytes).is_ok());
        }
    }

    #[test]
    fn a_query_carries_the_question_and_the_flags_that_were_asked() {
        let bytes = written("www.example.com", asked(flag::RD | flag::CD, true), Privacy::Plain);
        let message = Message::from_bytes(&bytes).unwrap();
        assert_eq!(message.metadata.id, 0xbeef);
        assert!(
            message.metadata.recursion_desired && message.metadata.checking_disabled && message.metadata.authentic_data
        );
        assert_eq!(message.queries[0].name().to_string(), "www.example.com.");
        let edns = message.edns.as_ref().unwrap();
        assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
        let bytes = written("www.example.com", asked(0, false), Privacy::Plain);
        let message = Message::from_bytes(&bytes).unwrap();
        assert!(!message.metadata.recursion_desired && !message.metadata.checking_disabled);
    }
}
