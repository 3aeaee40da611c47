//! From an upstream's message to a client's: what must be the same, and what must fit. A second reader of the wire,
//! hickory-proto, says what the messages mean.

use super::name::from_text;
use super::reply;
use super::request::{Asked, Edns, Question};
use super::response::{Answer, TtlBounds, shorten};
use super::{HEADER, flag};
use hickory_proto::op::{Edns as HickoryEdns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, CNAME, MX, NULL, SOA, SRV, TXT, opt::EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;
use std::str::FromStr;

const BOUNDS: TtlBounds = TtlBounds { min: 0, max: u32::MAX };
const STREAM: usize = 65_535;
const NAME: &str = "wWw.eXample.com";

fn asked(edns: bool) -> Asked {
    let edns = edns.then_some(Edns { udp_payload: 1232, version: 0, dnssec_ok: false, cookie: None });
    Asked { id: 77, flags: flag::RD, edns }
}

fn question_bytes() -> Vec<u8> {
    [wire_name(NAME), vec![0, 1, 0, 1]].concat()
}

/// A name's wire bytes, its letter case kept.
fn wire_name(text: &str) -> Vec<u8> {
    let mut bytes = from_text(text);
    let letters: Vec<u8> = text.split('.').flat_map(|label| [&[0], label.as_bytes()].concat()).collect();
    for (byte, letter) in bytes.iter_mut().zip(letters) {
        if byte.eq_ignore_ascii_case(&letter) {
            *byte = letter;
        }
    }
    bytes
}

/// The reply that a client gets for an upstream's message.
fn relayed(upstream: &[u8], asked: Asked, limit: usize) -> Vec<u8> {
    let question = question_bytes();
    let question = Question::starting(&question).unwrap();
    let answer = Answer::parse(upstream, question, BOUNDS).unwrap();
    // What is in the buffer before is not touched.
    let mut out = vec![0xee; 3];
    reply::answer(&mut out, asked, question, &answer, 0, limit);
    assert_eq!(out[..3], [0xee; 3]);
    out.split_off(3)
}

fn response() -> Message {
    let mut message = Message::new(9, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(Name::from_str("www.example.com.").unwrap(), RecordType::A));
    message
}

/// Names of which most share an end with the question, so that writers compress them.
fn any_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        Just("www.example.com."),
        Just("example.com."),
        Just("com."),
        Just("mail.www.example.com."),
        Just("other.test."),
        Just("."),
    ]
    .prop_map(|text| Name::from_str(text).unwrap())
}

fn any_rdata() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|[a, b, c, d]| RData::A(A::new(a, b, c, d))),
        any_name().prop_map(|name| RData::CNAME(CNAME(name))),
        (any::<u16>(), any_name()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        (any::<u16>(), any_name()).prop_map(|(port, name)| RData::SRV(SRV::new(1, 2, port, name))),
        (any_name(), any_name()).prop_map(|(mname, rname)| RData::SOA(SOA::new(mname, rname, 1, 2, 3, 4, 5))),
        "[a-z]{0,40}".prop_map(|text| RData::TXT(TXT::new(vec![text]))),
        (600u16..60_000, prop::collection::vec(any::<u8>(), 1..60))
            .prop_map(|(code, octets)| RData::Unknown { code: code.into(), rdata: NULL::with(octets) }),
    ]
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let class = prop_oneof![4 => Just(DNSClass::IN), 1 => Just(DNSClass::CH)];
    let record = (any_name(), 0u32..100_000, any_rdata(), class).prop_map(|(name, ttl, rdata, class)| {
        let mut record = Record::from_rdata(name, ttl, rdata);
        record.dns_class = class;
        record
    });
    prop::collection::vec(record, 0..6)
}

proptest! {
    /// RFC 3597: names whose pointers lead into the question, whose letter case changes, and data of any type.
    #[test]
    fn records_reach_the_client_as_the_upstream_sent_them(
        answers in any_records(), authorities in any_records(), additionals in any_records(), edns in any::<[bool; 2]>(),
    ) {
        let mut message = response();
        message.add_answers(answers);
        message.add_authorities(authorities);
        message.add_additionals(additionals);
        if edns[0] {
            let mut opt = HickoryEdns::new();
            opt.options_mut().insert(EdnsOption::Unknown(12, vec![0; 99]));
            message.edns = Some(opt);
        }
        let upstream = message.to_vec().unwrap();
        let reply = relayed(&upstream, asked(edns[1]), STREAM);
        let question = question_bytes();
        prop_assert_eq!(&reply[HEADER..HEADER + question.len()], &question);
        prop_assert_eq!(&reply[HEADER..HEADER + 4], b"\x03wWw");
        let (sent, read) = (Message::from_vec(&upstream).unwrap(), Message::from_vec(&reply).unwrap());
        prop_assert_eq!(&read.answers, &sent.answers);
        // An SOA in the authority section lives no longer than its minimum (RFC 2308).
        let data = |records: &[Record]| records.iter().map(|record| (record.name.clone(), record.data.clone())).collect::<Vec<_>>();
        prop_assert_eq!(data(&read.authorities), data(&sent.authorities));
        prop_assert_eq!(&read.additionals, &sent.additionals);
        prop_assert_eq!(read.edns.is_some(), edns[1]);
    }

    #[test]
    fn a_reply_never_exceeds_the_limit_and_misses_required_records_only_with_tc(
        answers in any_records(), additionals in any_records(), limit in 512usize..700, edns in any::<bool>(),
        explained in 0usize..300,
    ) {
        let mut message = response();
        message.add_answers(answers);
        message.add_additionals(additionals);
        let mut opt = HickoryEdns::new();
        opt.options_mut().insert(EdnsOption::Unknown(15, vec![b'x'; explained + 2]));
        message.edns = Some(opt);
        let upstream = message.to_vec().unwrap();
        let reply = relayed(&upstream, asked(edns), limit);
        prop_assert!(reply.len() <= limit);
        let (sent, read) = (Message::from_vec(&upstream).unwrap(), Message::from_vec(&reply).unwrap());
        prop_assert_eq!(read.edns.is_some(), edns);
        if read.metadata.truncation {
            prop_assert!(read.answers.is_empty() && read.additionals.is_empty());
        } else {
            prop_assert_eq!(read.answers, sent.answers);
            prop_assert!(read.additionals.is_empty() || read.additionals == sent.additionals);
        }
    }
}

/// An answer with so many octets of text records, and one address in the additional section.
fn with_text(octets: &[usize]) -> Message {
    let mut message = response();
    for length in octets {
        let owner = Name::from_str("www.example.com.").unwrap();
        let rdata = RData::Unknown { code: RecordType::Unknown(65_000), rdata: NULL::with(vec![7; *length]) };
        message.add_answer(Record::from_rdata(owner, 60, rdata));
    }
    let host = Name::from_str("host.example.com.").unwrap();
    message.add_additional(Record::from_rdata(host, 60, RData::A(A::new(192, 0, 2, 1))));
    message
}

#[test]
fn what_only_explains_gives_way_first_then_what_is_additional_then_all() {
    let mut message = with_text(&[300]);
    let mut opt = HickoryEdns::new();
    opt.options_mut().insert(EdnsOption::Unknown(15, vec![b'x'; 50]));
    message.edns = Some(opt);
    let upstream = message.to_vec().unwrap();
    let whole = relayed(&upstream, asked(true), 1232).len();
    let told = |limit| {
        let reply = relayed(&upstream, asked(true), limit);
        let message = Message::from_vec(&reply).unwrap();
        let explained = message.edns.unwrap().option(15.into()).is_some();
        (message.answers.len(), message.additionals.len(), explained, message.metadata.truncation)
    };
    assert_eq!(told(whole), (1, 1, true, false));
    assert_eq!(told(whole - 1), (1, 1, false, false));
    assert_eq!(told(whole - 54), (1, 1, false, false));
    assert_eq!(told(whole - 55), (1, 0, false, false));
    assert_eq!(told(whole - 54 - 21), (1, 0, false, false));
    assert_eq!(told(whole - 54 - 22), (0, 0, false, true));
}

/// An upstream's message of exactly 65,535 octets, with an OPT or without.
fn full_size(edns: bool) -> Vec<u8> {
    let with = |last: usize| {
        let mut message = with_text(&[8_000, 8_000, 8_000, 8_000, 8_000, 8_000, 8_000, last]);
        message.additionals.clear();
        message.edns = edns.then(HickoryEdns::new);
        message.to_vec().unwrap()
    };
    let short = with(1_000).len();
    let bytes = with(1_000 + STREAM - short);
    assert_eq!(bytes.len(), STREAM);
    bytes
}

#[test]
fn an_answer_of_full_length_survives_on_a_stream() {
    for (theirs, ours) in [(true, true), (true, false), (false, true), (false, false)] {
        let upstream = full_size(theirs);
        let reply = relayed(&upstream, asked(ours), STREAM);
        let message = Message::from_vec(&reply).unwrap();
        assert!(reply.len() <= STREAM && !message.metadata.truncation);
        assert_eq!(message.answers, Message::from_vec(&upstream).unwrap().answers);
        // Without an OPT of the upstream's there is no room for ours, and the answer is worth more.
        assert_eq!(message.edns.is_some(), theirs && ours);
        let over_udp = Message::from_vec(&relayed(&upstream, asked(ours), 512)).unwrap();
        assert!(over_udp.metadata.truncation && over_udp.answers.is_empty());
        assert_eq!(over_udp.edns.is_some(), ours);
    }
}

#[test]
fn a_stale_answer_of_full_length_survives_on_a_stream_too() {
    let question = question_bytes();
    let question = Question::starting(&question).unwrap();
    let answer = Answer::parse(&full_size(true), question, BOUNDS).unwrap();
    let mut out = Vec::new();
    reply::stale(&mut out, asked(true), question, &answer, STREAM);
    let message = Message::from_vec(&out).unwrap();
    assert!(out.len() <= STREAM && message.answers.len() == 8 && message.edns.is_some());
}

#[test]
fn an_opt_before_other_records_is_dropped_with_them_and_never_told() {
    let mut bytes = vec![0, 9, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 2];
    bytes.extend(question_bytes());
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2]);
    let message = Message::from_vec(&relayed(&bytes, asked(false), 512)).unwrap();
    assert_eq!((message.answers.len(), message.additionals.len()), (1, 0));
    assert!(message.edns.is_none());
}

#[test]
fn what_was_kept_on_the_way_lives_that_much_shorter_and_a_denial_by_its_minimum() {
    let owner = Name::from_str("www.example.com.").unwrap();
    let soa = |minimum| RData::SOA(SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, minimum));
    let lifetime = |records: &[(u32, RData)], age, fresh_for| {
        let mut message = response();
        message.edns = Some(HickoryEdns::new());
        for (ttl, data) in records {
            let record = Record::from_rdata(owner.clone(), *ttl, data.clone());
            if data.record_type() == RecordType::SOA {
                message.add_authority(record)
            } else {
                message.add_answer(record)
            };
        }
        let mut bytes = message.to_vec().unwrap();
        shorten(&mut bytes, age, fresh_for);
        Answer::parse(&bytes, Question::starting(&question_bytes()).unwrap(), BOUNDS).unwrap().lifetime()
    };
    let address = RData::A(A::new(192, 0, 2, 1));
    assert_eq!(lifetime(&[(300, address.clone()), (200, address.clone())], 50, None), 150);
    assert_eq!(lifetime(&[(300, address.clone())], 50, Some(9)), 9);
    assert_eq!(lifetime(&[(300, address)], 301, None), 0);
    assert_eq!(lifetime(&[(3600, soa(60))], 50, None), 10);
    for garbage in [&[][..], &[0; 11], &[0xff; 40]] {
        shorten(&mut garbage.to_vec(), 1, Some(1)); // left to who parses it
    }
}
