//! What hickory-proto makes of a message.

use hickory_proto::op;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use super::reading::{Edns, Message, Reading, in_lower_case};

/// Reads messages. That nothing follows a message hickory-proto leaves to who uses it.
pub fn read_all(messages: &[&[u8]]) -> Vec<Reading> {
    messages.iter().map(|message| read(message).unwrap_or_else(Reading::Malformed)).collect()
}

fn read(bytes: &[u8]) -> Result<Reading, String> {
    let mut decoder = BinDecoder::new(bytes);
    let message = op::Message::read(&mut decoder).map_err(|error| format!("{error:?}"))?;
    if !decoder.is_empty() {
        return Err("TrailingOctets".to_owned());
    }
    let edns = message.edns.as_ref().map(|edns| Edns {
        version: edns.version(),
        dnssec_ok: edns.flags().dnssec_ok,
        payload: edns.max_payload(),
    });
    Ok(Reading::Read(Message {
        questions: message.queries.iter().map(question).collect(),
        edns,
        rcode: message.metadata.response_code.into(),
        answers: message.answers.len(),
    }))
}

fn question(query: &op::Query) -> Vec<u8> {
    let mut bytes = Vec::new();
    query.emit(&mut BinEncoder::new(&mut bytes)).unwrap();
    in_lower_case(&bytes)
}
