//! What is sent to a client.

use super::answer::Answer;
use super::cookie::{self, Cookie};
use super::request::{Asked, DNSSEC_OK, Edns, Question};
use super::{CLASS_IN, ExtendedError, HEADER, Rcode, UDP_PAYLOAD, flag, option, read_u16};

/// A record of our own making; its owner is the question's name, or, in the authority section, a name given in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRecord<'a> {
    /// The owner's wire bytes; `None` for the question's name.
    pub owner: Option<&'a [u8]>,
    /// Its type.
    pub rtype: u16,
    /// Its TTL, in seconds.
    pub ttl: u32,
    /// Its data.
    pub rdata: &'a [u8],
}

/// What the proxy answers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own<'a> {
    /// The code.
    pub rcode: Rcode,
    /// The one record of the answer section, if any.
    pub answer: Option<OwnRecord<'a>>,
    /// The one record of the authority section, if any.
    pub authority: Option<OwnRecord<'a>>,
    /// Why, for a client that speaks EDNS.
    pub cause: Option<&'a ExtendedError>,
}

/// TTL of a stale record, in seconds (RFC 8767 §4).
const STALE_TTL: u32 = 30;

/// Octets of an OPT without options.
const OPT: usize = 11;

/// Writes an answer as this client asked for it: its id, its letter case, its RD and CD, AD only where it was asked for
/// (RFC 6840 §5.8), an OPT only for who sent one, TTLs less the answer's age in seconds. The client's and the answer's
/// question are the same but for case. What would not fit the limit loses, in this order, what only explains, the
/// additional section (RFC 2181 §9), and all records, which TC tells.
pub fn answer(out: &mut Vec<u8>, asked: Asked, question: Question<'_>, answer: &Answer, age: u32, limit: usize) {
    let wants_ad = asked.has(flag::AD) || asked.dnssec_ok();
    let kept = answer.flags() & (flag::TC | flag::RCODE | if wants_ad { flag::AD } else { 0 });
    Reply { asked, question, answer, kept, told: &[], limit }.write(out, |ttl| ttl.saturating_sub(age));
}

/// Writes an answer that has ended, as [`answer()`] does, and says so (RFC 8767, RFC 8914): TTLs of 30 seconds, an
/// extended error beside the upstream's own, and no AD, since signatures may have ended with it.
pub fn stale(out: &mut Vec<u8>, asked: Asked, question: Question<'_>, answer: &Answer, limit: usize) {
    let code = match answer.rcode() {
        Rcode::NXDOMAIN => ExtendedError::STALE_NXDOMAIN_ANSWER,
        _ => ExtendedError::STALE_ANSWER,
    };
    let [code_0, code_1] = code.to_be_bytes();
    let [option_0, option_1] = option::EXTENDED_ERROR.to_be_bytes();
    let told = [option_0, option_1, 0, 2, code_0, code_1];
    let kept = answer.flags() & (flag::TC | flag::RCODE);
    Reply { asked, question, answer, kept, told: &told, limit }.write(out, |_| STALE_TTL);
}

/// What both ways to tell an answer have in common.
struct Reply<'a> {
    asked: Asked,
    question: Question<'a>,
    answer: &'a Answer,
    /// The flags that are kept from the answer.
    kept: u16,
    /// EDNS options before the upstream's.
    told: &'a [u8],
    limit: usize,
}

impl Reply<'_> {
    fn write(&self, out: &mut Vec<u8>, ttl: impl Fn(u32) -> u32) {
        let start = out.len();
        let (message, errors) = (self.answer.message(), self.answer.extended_errors());
        let explained = if self.asked.edns.is_some() { self.told.len() + errors.len() } else { 0 };
        let opt_length = opt_length(self.asked) + explained;
        if message.len() + opt_length > self.limit {
            return self.write_less(out, ttl);
        }
        // Once, so that what is appended below finds room.
        out.reserve(message.len() + opt_length);
        self.body(out, message, ttl);
        opt(out, start, self.asked, self.answer.rcode(), &[self.told, errors]);
    }

    /// The message, made this client's.
    #[inline]
    fn body(&self, out: &mut Vec<u8>, message: &[u8], ttl: impl Fn(u32) -> u32) {
        let start = out.len();
        out.extend_from_slice(message);
        let message = &mut out[start..];
        for at in self.answer.ttl_offsets() {
            if let Some(octets) = message.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *octets = ttl(u32::from_be_bytes(*octets)).to_be_bytes();
            }
        }
        head(message, self.asked, self.kept);
        message[HEADER..HEADER + self.question.as_bytes().len()].copy_from_slice(self.question.as_bytes());
    }

    /// As much as fits the limit.
    #[cold]
    fn write_less(&self, out: &mut Vec<u8>, ttl: impl Fn(u32) -> u32) {
        let start = out.len();
        let rcode = self.answer.rcode();
        let message = self.answer.message();
        let opt_length = opt_length(self.asked);
        let required = self.answer.without_additionals();
        if message.len() + opt_length <= self.limit {
            self.body(out, message, ttl);
            opt(out, start, self.asked, rcode, &[]);
        } else if required.len() + opt_length <= self.limit {
            self.body(out, required, ttl);
            out[start + 10..start + HEADER].fill(0);
            opt(out, start, self.asked, rcode, &[]);
        } else if required.len() <= self.limit && self.limit > usize::from(UDP_PAYLOAD) {
            // On a stream, where nothing larger can be had, a whole answer is worth more than an OPT that says nothing.
            self.body(out, required, ttl);
            out[start + 10..start + HEADER].fill(0);
        } else {
            empty(out, self.asked, self.question, (self.kept & !flag::AD) | flag::TC);
            opt(out, start, self.asked, rcode, &[]);
        }
    }
}

/// Writes a reply without records, with a code and its cause.
pub fn failure(out: &mut Vec<u8>, asked: Asked, question: Question<'_>, rcode: Rcode, cause: Option<&ExtendedError>) {
    let start = out.len();
    empty(out, asked, question, rcode.0 & flag::RCODE);
    explained(out, start, asked, rcode, cause);
}

/// Writes a reply without records that says that more is to be had over TCP: no larger than the query was.
pub fn truncated(out: &mut Vec<u8>, asked: Asked, question: Question<'_>) {
    let start = out.len();
    let asked = Asked { edns: asked.edns.map(|edns| Edns { cookie: None, ..edns }), ..asked };
    empty(out, asked, question, flag::TC);
    opt(out, start, asked, Rcode::NOERROR, &[]);
}

/// Writes the reply to what could not be read as a query: a bare header.
pub fn bare_failure(out: &mut Vec<u8>, asked: Asked, rcode: Rcode) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    head(&mut out[start..], asked, (asked.flags & flag::OPCODE) | rcode.0);
}

/// Writes an answer of the proxy's own, which fits a datagram: of what is long only the code is told.
pub fn own(out: &mut Vec<u8>, asked: Asked, question: Question<'_>, own: &Own<'_>) {
    let start = out.len();
    empty(out, asked, question, own.rcode.0 & flag::RCODE);
    for (count_at, record) in [(7, &own.answer), (9, &own.authority)] {
        let Some(record) = record else { continue };
        out[start + count_at] = 1;
        // A pointer to the question's name, right behind the header, where no owner is given.
        out.extend_from_slice(record.owner.unwrap_or(&[0xc0, 12]));
        out.extend_from_slice([record.rtype, CLASS_IN].map(u16::to_be_bytes).as_flattened());
        out.extend_from_slice(&record.ttl.to_be_bytes());
        let length = u16::try_from(record.rdata.len()).expect("our own records are short");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(record.rdata);
    }
    explained(out, start, asked, own.rcode, own.cause);
    if out.len() - start > asked.udp_limit() {
        // A long name in a cluster with a long domain: the code is what counts.
        out.truncate(start);
        failure(out, asked, question, own.rcode, None);
    }
}

/// A message without records: header and question.
fn empty(out: &mut Vec<u8>, asked: Asked, question: Question<'_>, kept: u16) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    head(&mut out[start..], asked, kept);
    out[start + 5] = 1;
    out.extend_from_slice(question.as_bytes());
}

/// Sets id and flags: those kept from the answer, RD and CD from the client, and QR and RA.
fn head(message: &mut [u8], asked: Asked, kept: u16) {
    let flags = kept | flag::QR | flag::RA | (asked.flags & (flag::RD | flag::CD));
    message[..4].copy_from_slice([asked.id, flags].map(u16::to_be_bytes).as_flattened());
}

/// Appends an OPT with a cause.
fn explained(out: &mut Vec<u8>, start: usize, asked: Asked, rcode: Rcode, cause: Option<&ExtendedError>) {
    match cause.map(ExtendedError::as_option) {
        Some((head, text)) => opt(out, start, asked, rcode, &[&head, text]),
        None => opt(out, start, asked, rcode, &[]),
    }
}

/// The length of the OPT for a client, without what explains.
fn opt_length(asked: Asked) -> usize {
    let cookie = |edns: Edns| if edns.cookie.is_some() { cookie::OPTION } else { 0 };
    asked.edns.map_or(0, |edns| OPT + cookie(edns))
}

/// Appends an OPT (RFC 6891) for a client that sent one, with the cookie that it is to have, and counts it. The options fit
/// the message.
fn opt(out: &mut Vec<u8>, start: usize, asked: Asked, rcode: Rcode, options: &[&[u8]]) {
    let Some(edns) = asked.edns else { return };
    let cookie = edns.cookie.and_then(Cookie::as_option);
    let cookie = cookie.as_ref().map_or(&[][..], |option| option);
    let length = options.iter().map(|option| option.len()).sum::<usize>() + cookie.len();
    let [length_0, length_1] = u16::try_from(length).expect("they fit the message, and so 16 bits").to_be_bytes();
    let [payload_0, payload_1] = UDP_PAYLOAD.to_be_bytes();
    let extended_rcode = u8::try_from(rcode.0 >> 4).expect("a response code has twelve bits");
    let dnssec_ok = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
    let fixed: [u8; OPT] = [0, 0, 41, payload_0, payload_1, extended_rcode, 0, dnssec_ok, 0, length_0, length_1];
    out.extend_from_slice(&fixed);
    out.extend_from_slice(cookie);
    for option in options {
        out.extend_from_slice(option);
    }
    let count = read_u16(out, start + 10).unwrap_or_default().saturating_add(1);
    out[start + 10..start + HEADER].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use crate::wire::response::TtlBounds;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use std::str::FromStr;

    const EDNS: Option<Edns> = Some(Edns { udp_payload: 1232, version: 0, dnssec_ok: false, cookie: None });

    fn question_bytes() -> Vec<u8> {
        let mut bytes = from_text("www.example.com");
        bytes[1] = b'W';
        bytes.extend([0, 1, 0, 1]);
        bytes
    }

    fn upstream_answer(records: u8) -> Answer {
        let name = Name::from_str("www.example.com.").unwrap();
        let mut message = Message::new(9, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.metadata.authentic_data = true;
        message.add_query(Query::query(name.clone(), RecordType::A));
        for last in 0..records {
            message.add_answer(Record::from_rdata(name.clone(), 300, RData::A(A::new(192, 0, 2, last))));
        }
        let question = question_bytes();
        let bounds = TtlBounds { min: 0, max: 86_400 };
        Answer::parse(&message.to_vec().unwrap(), Question::starting(&question).unwrap(), bounds).unwrap()
    }

    fn replied(asked: Asked, upstream: &Answer, age: u32, limit: usize) -> (Vec<u8>, Message) {
        let question = question_bytes();
        let mut out = Vec::new();
        answer(&mut out, asked, Question::starting(&question).unwrap(), upstream, age, limit);
        let message = Message::from_vec(&out).unwrap();
        (out, message)
    }

    #[test]
    fn a_reply_carries_the_clients_id_flags_and_letter_case() {
        let asked = Asked { id: 77, flags: flag::RD | flag::CD, edns: None };
        let (bytes, message) = replied(asked, &upstream_answer(1), 0, 512);
        let flags = &message.metadata;
        assert_eq!(flags.id, 77);
        assert!(flags.recursion_desired && flags.checking_disabled && flags.recursion_available);
        assert!(!flags.authoritative);
        assert_eq!(&bytes[HEADER..HEADER + 4], b"\x03Www");
    }

    #[test]
    fn ttls_are_counted_down_by_the_answers_age() {
        let (_, message) = replied(Asked { id: 1, flags: 0, edns: None }, &upstream_answer(2), 100, 512);
        assert!(message.answers.iter().all(|record| record.ttl == 200));
        let (_, message) = replied(Asked { id: 1, flags: 0, edns: None }, &upstream_answer(1), 1000, 512);
        assert_eq!(message.answers[0].ttl, 0);
    }

    fn stale_replied(asked: Asked, upstream: &Answer) -> Message {
        let question = question_bytes();
        let mut out = Vec::new();
        stale(&mut out, asked, Question::starting(&question).unwrap(), upstream, 512);
        Message::from_vec(&out).unwrap()
    }

    #[test]
    fn a_stale_answer_says_so_and_lives_for_thirty_seconds() {
        let asked = Asked { id: 1, flags: flag::AD, edns: EDNS };
        let message = stale_replied(asked, &upstream_answer(2));
        assert!(message.answers.iter().all(|record| record.ttl == 30));
        assert!(!message.metadata.authentic_data);
        let told = |message: Message| match message.edns.unwrap().option(EdnsCode::Unknown(15)) {
            Some(EdnsOption::Unknown(_, code)) => code.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(message), [0, 3]);
        let question = question_bytes();
        let cause = ExtendedError { code: 9, text: "beside it".into() };
        let nxdomain = Answer::failed(Question::starting(&question).unwrap(), Rcode::NXDOMAIN, &cause);
        let mut out = Vec::new();
        stale(&mut out, asked, Question::starting(&question).unwrap(), &nxdomain, 512);
        assert!(out.windows(6).any(|window| window == [0, 15, 0, 2, 0, 19]));
        assert!(out.ends_with(b"beside it"));
        let without_edns = stale_replied(Asked { id: 1, flags: 0, edns: None }, &upstream_answer(1));
        assert!(without_edns.edns.is_none() && without_edns.answers.len() == 1);
    }

    #[test]
    fn authentic_data_is_told_only_to_who_asked() {
        let told =
            |flags, edns| replied(Asked { id: 1, flags, edns }, &upstream_answer(1), 0, 512).1.metadata.authentic_data;
        assert!(!told(0, None));
        assert!(told(flag::AD, None));
        assert!(told(0, Some(Edns { udp_payload: 1232, version: 0, dnssec_ok: true, cookie: None })));
    }

    #[test]
    fn an_opt_is_sent_only_to_who_sent_one() {
        let upstream = upstream_answer(1);
        assert!(replied(Asked { id: 1, flags: 0, edns: None }, &upstream, 0, 512).1.edns.is_none());
        assert!(replied(Asked { id: 1, flags: 0, edns: EDNS }, &upstream, 0, 512).1.edns.is_some());
    }

    #[test]
    fn what_does_not_fit_is_truncated_whole() {
        let asked = Asked { id: 1, flags: 0, edns: EDNS };
        let (bytes, message) = replied(asked, &upstream_answer(100), 0, 1232);
        assert!(message.metadata.truncation && message.answers.is_empty() && message.edns.is_some());
        assert!(bytes.len() <= 512);
        let (_, message) = replied(asked, &upstream_answer(100), 0, 65_535);
        assert!(!message.metadata.truncation && message.answers.len() == 100);
    }

    #[test]
    fn a_failure_tells_its_cause_to_a_client_with_edns() {
        let question = question_bytes();
        let cause = ExtendedError { code: ExtendedError::NETWORK_ERROR, text: "connection-refused".into() };
        let mut out = Vec::new();
        let asked = Asked { id: 1, flags: flag::RD, edns: EDNS };
        failure(&mut out, asked, Question::starting(&question).unwrap(), Rcode::SERVFAIL, Some(&cause));
        let message = Message::from_vec(&out).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        assert!(message.edns.unwrap().option(EdnsCode::Unknown(15)).is_some());
        assert!(out.windows(18).any(|window| window == b"connection-refused"));
    }

    #[test]
    fn a_cookie_goes_with_every_reply_and_within_the_limit() {
        let cookie = Cookie { client: [1; 8], server: Some([2; 16]) };
        let edns = EDNS.map(|edns| Edns { cookie: Some(cookie), ..edns });
        let asked = Asked { id: 1, flags: 0, edns };
        for (records, limit) in [(1, 1232), (100, 1232), (28, 512), (27, 512), (26, 512)] {
            let (bytes, message) = replied(asked, &upstream_answer(records), 0, limit);
            let option = message.edns.unwrap().option(EdnsCode::Cookie).cloned();
            assert_eq!(option, Some(EdnsOption::Unknown(10, [&[1; 8][..], &[2; 16]].concat())));
            assert!(bytes.len() <= limit);
        }
        let (question, mut out) = (question_bytes(), Vec::new());
        let question = Question::starting(&question).unwrap();
        failure(&mut out, asked, question, Rcode::BADCOOKIE, None);
        assert_eq!(u16::from(Message::from_vec(&out).unwrap().metadata.response_code), 23);
        out.clear();
        truncated(&mut out, asked, question);
        let message = Message::from_vec(&out).unwrap();
        assert!(message.metadata.truncation && message.edns.is_some());
        assert_eq!(out.len(), HEADER + question.as_bytes().len() + OPT);
    }

    #[test]
    fn badvers_needs_the_extended_code_of_the_opt() {
        let question = question_bytes();
        let mut out = Vec::new();
        failure(
            &mut out,
            Asked { id: 1, flags: 0, edns: EDNS },
            Question::starting(&question).unwrap(),
            Rcode::BADVERS,
            None,
        );
        let code = u16::from(Message::from_vec(&out).unwrap().metadata.response_code);
        assert_eq!(code, Rcode::BADVERS.0);
    }

    #[test]
    fn an_own_answer_that_is_long_tells_its_code_alone() {
        let question = question_bytes();
        let authority = OwnRecord { owner: None, rtype: 6, ttl: 60, rdata: &[0; 500] };
        let answer = Own { rcode: Rcode::NXDOMAIN, answer: None, authority: Some(authority), cause: None };
        let mut out = Vec::new();
        own(&mut out, Asked { id: 1, flags: 0, edns: None }, Question::starting(&question).unwrap(), &answer);
        assert_eq!(out.len(), HEADER + question.len());
        assert_eq!(Message::from_vec(&out).unwrap().metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn the_clients_do_is_echoed_and_nothing_else_of_its_edns() {
        for dnssec_ok in [false, true] {
            let edns = Some(Edns { udp_payload: 4096, version: 0, dnssec_ok, cookie: None });
            let (_, message) = replied(Asked { id: 1, flags: 0, edns }, &upstream_answer(1), 0, 512);
            let edns = message.edns.unwrap();
            assert_eq!((edns.flags().dnssec_ok, edns.max_payload(), edns.version()), (dnssec_ok, UDP_PAYLOAD, 0));
        }
    }

    #[test]
    fn an_own_answer_can_be_read_by_others() {
        let question = question_bytes();
        let (zone, server) = (from_text("example.com"), from_text("ns.example.com"));
        let record = OwnRecord { owner: None, rtype: 1, ttl: 60, rdata: &[127, 0, 0, 1] };
        let authority = OwnRecord { owner: Some(&zone), rtype: 2, ttl: 60, rdata: &server };
        let answer = Own { rcode: Rcode::NOERROR, answer: Some(record), authority: Some(authority), cause: None };
        let mut out = Vec::new();
        own(&mut out, Asked { id: 1, flags: 0, edns: EDNS }, Question::starting(&question).unwrap(), &answer);
        let message = Message::from_vec(&out).unwrap();
        assert_eq!(message.answers[0].name, Name::from_str("www.example.com.").unwrap());
        assert_eq!(message.authorities[0].name, Name::from_str("example.com.").unwrap());
    }
}
