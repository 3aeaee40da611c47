//! What is sent to an upstream.

use super::request::{Asked, DNSSEC_OK, Question};
use super::{UDP_PAYLOAD, flag, option};

/// How the query travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// Encrypted: padded, so that its length does not tell the name, on a connection that is to stay open.
    Encrypted,
    /// Encrypted, by a transport that keeps its connections open by means of its own (HTTP/2, QUIC): padded alike, without
    /// a word about the connection, which DNS over QUIC forbids (RFC 9250 §4.3.3).
    Multiplexed,
    /// In the clear: padding would hide nothing.
    Plain,
}

/// RFC 8467 §4.1: queries are padded to a multiple of 128 octets.
const BLOCK: usize = 128;

/// edns-tcp-keepalive without a timeout: the server is to tell its own (RFC 7828 §3.2.1).
const TCP_KEEPALIVE: [u8; 4] = [0, 11, 0, 0];

/// Writes the query for a question, as this proxy asks it: RD, CD and DO as the client asked, AD set so that the answer
/// tells whether it was validated (RFC 6840 §5.7), and no EDNS option of the client's, so that nothing identifies it.
pub fn write(out: &mut Vec<u8>, id: u16, asked: Asked, question: Question<'_>, privacy: Privacy) {
    out.reserve(3 * BLOCK);
    let start = out.len();
    let flags = (asked.flags & (flag::RD | flag::CD)) | flag::AD;
    out.extend_from_slice([id, flags, 1, 0, 0, 1].map(u16::to_be_bytes).as_flattened());
    out.extend_from_slice(question.as_bytes());
    // What fits a datagram is of no account where there are none; but there are servers that would truncate to it.
    let payload = if privacy == Privacy::Multiplexed { u16::MAX } else { UDP_PAYLOAD };
    let [payload_0, payload_1] = payload.to_be_bytes();
    let dnssec_ok = if asked.dnssec_ok() { DNSSEC_OK } else { 0 };
    out.extend_from_slice(&[0, 0, 41, payload_0, payload_1, 0, 0, dnssec_ok, 0]);
    match privacy {
        Privacy::Plain => out.extend_from_slice(&[0, 0]),
        Privacy::Encrypted | Privacy::Multiplexed => {
            let keepalive = if privacy == Privacy::Encrypted { TCP_KEEPALIVE.as_slice() } else { &[] };
            // Behind the length of the OPT's data: keepalive, and the head of the padding.
            let unpadded = out.len() - start + 2 + keepalive.len() + 4;
            let padding = unpadded.next_multiple_of(BLOCK) - unpadded;
            let length = |octets: usize| u16::try_from(octets).expect("padding is shorter than a block").to_be_bytes();
            out.extend_from_slice(&length(keepalive.len() + 4 + padding));
            out.extend_from_slice(keepalive);
            out.extend_from_slice(&option::PADDING.to_be_bytes());
            out.extend_from_slice(&length(padding));
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
        Asked { id: 7, flags, edns: Some(Edns { udp_payload: 4096, version: 0, dnssec_ok, cookie: None }) }
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
            for privacy in [Privacy::Encrypted, Privacy::Multiplexed] {
                let bytes = written(&format!("{}.example.com", "a".repeat(length)), asked(flag::RD, false), privacy);
                assert_eq!(bytes.len() % BLOCK, 0);
                assert!(parse(&bytes).is_ok());
            }
        }
    }

    #[test]
    fn encrypted_queries_ask_for_the_idle_timeout_and_identify_no_client() {
        let options = |privacy| {
            let bytes = written("www.example.com", asked(flag::RD, false), privacy);
            let edns = Message::from_bytes(&bytes).unwrap().edns.unwrap();
            edns.options().as_ref().iter().map(|(code, _)| u16::from(*code)).collect::<Vec<_>>()
        };
        assert_eq!(options(Privacy::Encrypted), [option::TCP_KEEPALIVE, option::PADDING]);
        assert_eq!(options(Privacy::Multiplexed), [option::PADDING]);
        assert!(options(Privacy::Plain).is_empty());
    }

    #[test]
    fn the_longest_question_is_asked_too() {
        let longest = [[63, b'a'].as_slice(), &[b'a'; 62]].concat().repeat(3);
        let mut question = [longest.as_slice(), &[61], &[b'b'; 61], &[0]].concat();
        assert_eq!(question.len(), 255);
        question.extend([0, 28, 0, 1]);
        let mut out = Vec::new();
        write(&mut out, 1, asked(0, true), Question::starting(&question).unwrap(), Privacy::Encrypted);
        assert_eq!(out.len() % BLOCK, 0);
        assert!(parse(&out).is_ok_and(|(asked, read)| asked.dnssec_ok() && read.as_bytes() == question));
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
