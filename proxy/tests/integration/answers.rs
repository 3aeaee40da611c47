//! What the servers on loopback answer: an address that follows from the name, so that whoever gets it can tell whether
//! it is the answer to what was asked.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// A type that no program knows.
pub const UNKNOWN_TYPE: RecordType = RecordType::Unknown(65_280);

/// The one right address of a name.
pub fn address_of(name: &Name) -> Ipv4Addr {
    // FNV-1a: different names have different addresses, but for one pair in sixteen millions.
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let [_, second, third, fourth] = name.to_lowercase().to_ascii().bytes().fold(0x811c_9dc5, fold).to_be_bytes();
    Ipv4Addr::new(10, second, third, fourth)
}

/// Whether this is the answer, and the whole answer, to the question for that name's address.
pub fn is_right(reply: &Message, name: &Name) -> bool {
    let addresses: Vec<_> = reply.answers.iter().map(|record| (&record.name, &record.data)).collect();
    addresses == [(name, &RData::A(A(address_of(name))))]
}

/// The answer: the name's address, or an SOA that says there is nothing of another type. Names that start with `large`
/// have a hundred addresses, the TTL of `ttl2-www` and the like is 2 seconds; [`UNKNOWN_TYPE`] fills the longest message
/// there is.
pub fn answer(query: &Message) -> Message {
    let mut reply = reply_to(query);
    let name = query.queries[0].name().clone();
    match query.queries[0].query_type() {
        RecordType::A if name.to_string().to_lowercase().starts_with("large") => {
            reply.add_answers((0..100).map(|last| record(&name, 300, RData::A(A::new(192, 0, 2, last)))));
        }
        RecordType::A => {
            reply.add_answer(record(&name, ttl_of(&name), RData::A(A(address_of(&name)))));
        }
        UNKNOWN_TYPE => fill(&mut reply, &name),
        _ => deny(&mut reply),
    }
    reply
}

/// The answer of a server of plain DNS to what does not fit a datagram.
pub fn truncated(query: &Message) -> Message {
    let mut reply = reply_to(query);
    reply.metadata.truncation = true;
    reply
}

/// Takes the records away and puts the SOA in their place that says for how long there are none: 60 seconds.
fn deny(reply: &mut Message) {
    let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, 60);
    let zone = reply.queries[0].name().base_name();
    reply.answers.clear();
    reply.authorities = vec![record(&zone, 60, RData::SOA(soa))];
}

/// Denies that the name exists, for 60 seconds.
pub fn deny_name(reply: &mut Message) {
    deny(reply);
    reply.metadata.response_code = ResponseCode::NXDomain;
}

fn ttl_of(name: &Name) -> u32 {
    let told = name.to_lowercase().to_ascii();
    told.strip_prefix("ttl").and_then(|rest| rest.split_once('-')?.0.parse().ok()).unwrap_or(300)
}

fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    reply.edns = query.edns.as_ref().map(|_| Edns::new());
    reply
}

fn record(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}

/// One record that makes the message 65,535 octets long.
fn fill(reply: &mut Message, name: &Name) {
    let of_length = |length| RData::Unknown { code: UNKNOWN_TYPE, rdata: NULL::with(vec![0xc0; length]) };
    reply.add_answer(record(name, 300, of_length(1)));
    let left = usize::from(u16::MAX) - reply.to_vec().unwrap().len();
    reply.answers[0].data = of_length(1 + left);
}
