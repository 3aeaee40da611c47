//! What an upstream answered.

use super::request::Question;
use super::{HEADER, Rcode, Record, flag, option, read_u16, read_u32, rtype};

/// An answer as the cache keeps it: wire bytes without the upstream's OPT, and where the TTLs stand in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    message: Vec<u8>,
    ttl_offsets: Vec<u16>,
    extended_errors: Vec<u8>,
    lifetime: u32,
}

/// A message that is no readable response to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unusable;

/// Keeps TTLs between bounds, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    /// The floor.
    pub min: u32,
    /// The ceiling.
    pub max: u32,
}

/// Whether a message is a response to this question, as far as its head tells; what is not is not for us.
pub fn answers(response: &[u8], question: Question<'_>) -> bool {
    let (Some(flags), Some(questions)) = (read_u16(response, 2), read_u16(response, 4)) else { return false };
    let code = flags & flag::RCODE;
    response.len() >= HEADER
        && flags & flag::QR != 0
        && match questions {
            // Some servers leave the question out when they fail; the code is all there is to pass on.
            0 => !matches!(Rcode(code), Rcode::NOERROR | Rcode::NXDOMAIN),
            1 => Question::starting(&response[HEADER..]).is_some_and(|theirs| theirs.same_as(question)),
            _ => false,
        }
}

impl Answer {
    /// Reads the response to a question. TTLs are brought within the bounds.
    pub fn parse(response: &[u8], question: Question<'_>, bounds: TtlBounds) -> Result<Self, Unusable> {
        if !answers(response, question) {
            return Err(Unusable);
        }
        let word = |at| read_u16(response, at).unwrap_or_default();
        let flags = word(2);
        if word(4) == 0 {
            return Ok(Self::bare(flags, question));
        }
        let (answers, authorities, additionals) = (u32::from(word(6)), u32::from(word(8)), u32::from(word(10)));
        let mut walk = Walk::new(Rcode(flags & flag::RCODE), question.qtype(), bounds);
        let mut message = response.to_vec();
        let mut at = HEADER + question.as_bytes().len();
        for index in 0..answers + authorities + additionals {
            let record = Record::at(response, at).ok_or(Unusable)?;
            if record.rtype == rtype::OPT && index >= answers + authorities {
                walk.extended_errors(&response[record.rdata..record.end]);
                // What may follow the OPT is optional too: cutting there keeps every compression pointer right.
                message.truncate(record.start);
                set_count(&mut message, index - answers - authorities);
                break;
            }
            walk.record(&mut message, &record, index < answers, index < answers + authorities)?;
            at = record.end;
        }
        if walk.opt_seen || at == message.len() {
            return Ok(walk.finish(message, flags));
        }
        Err(Unusable)
    }

    fn bare(flags: u16, question: Question<'_>) -> Self {
        let mut message = vec![0; HEADER];
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[5] = 1;
        message.extend(question.as_bytes());
        Self { message, ttl_offsets: Vec::new(), extended_errors: Vec::new(), lifetime: 0 }
    }

    /// The message's bytes; id and letter case are the upstream's.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Where in the message TTLs stand.
    pub fn ttl_offsets(&self) -> &[u16] {
        &self.ttl_offsets
    }

    /// The upstream's extended errors (RFC 8914) as EDNS options, to be passed on.
    pub fn extended_errors(&self) -> &[u8] {
        &self.extended_errors
    }

    /// How long it may be kept, in seconds; 0 means that it must not be.
    pub fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// Its response code.
    pub fn rcode(&self) -> Rcode {
        Rcode(read_u16(&self.message, 2).unwrap_or_default() & flag::RCODE)
    }
}

/// What is learnt while walking through the records.
struct Walk {
    rcode: Rcode,
    qtype: u16,
    bounds: TtlBounds,
    ttl_offsets: Vec<u16>,
    extended_errors: Vec<u8>,
    least_ttl: Option<u32>,
    answered: bool,
    authority_is_known: bool,
    opt_seen: bool,
}

impl Walk {
    fn new(rcode: Rcode, qtype: u16, bounds: TtlBounds) -> Self {
        Self {
            rcode,
            qtype,
            bounds,
            ttl_offsets: Vec::new(),
            extended_errors: Vec::new(),
            least_ttl: None,
            answered: false,
            authority_is_known: false,
            opt_seen: false,
        }
    }

    fn record(&mut self, message: &mut [u8], record: &Record, answer: bool, counted: bool) -> Result<(), Unusable> {
        // RFC 2181 §8: a TTL with the top bit set counts as zero.
        let mut ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
        if record.rtype == rtype::SOA && !answer && counted {
            // RFC 2308 §5: a negative answer lives as long as the lesser of the SOA's TTL and its MINIMUM, its last field.
            let minimum =
                record.end.checked_sub(4).filter(|at| *at >= record.rdata).and_then(|at| read_u32(message, at));
            ttl = ttl.min(minimum.ok_or(Unusable)?);
            self.authority_is_known = true;
        }
        self.answered |= answer && (record.rtype == self.qtype || self.qtype == rtype::ANY);
        let ttl = ttl.clamp(self.bounds.min, self.bounds.max);
        self.least_ttl = Some(self.least_ttl.map_or(ttl, |least| least.min(ttl)));
        message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&ttl.to_be_bytes());
        self.ttl_offsets.push(u16::try_from(record.ttl_at).map_err(|_| Unusable)?);
        Ok(())
    }

    fn extended_errors(&mut self, mut options: &[u8]) {
        self.opt_seen = true;
        while let (Some(code), Some(length)) = (read_u16(options, 0), read_u16(options, 2)) {
            let Some((this, rest)) = options.split_at_checked(4 + usize::from(length)) else { return };
            if code == option::EXTENDED_ERROR {
                self.extended_errors.extend(this);
            }
            options = rest;
        }
    }

    fn finish(self, message: Vec<u8>, flags: u16) -> Answer {
        let cacheable = flags & flag::TC == 0
            && match self.rcode {
                Rcode::NOERROR => self.answered || self.authority_is_known,
                Rcode::NXDOMAIN => self.authority_is_known,
                _ => false,
            };
        Answer {
            message,
            ttl_offsets: self.ttl_offsets,
            extended_errors: self.extended_errors,
            lifetime: if cacheable { self.least_ttl.unwrap_or(0) } else { 0 },
        }
    }
}

fn set_count(message: &mut [u8], additionals: u32) {
    let count = u16::try_from(additionals).expect("it was read from 16 bits");
    message[10..12].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, SOA, opt::EdnsOption};
    use hickory_proto::rr::{Name, RData, Record as HickoryRecord, RecordType};
    use proptest::prelude::*;
    use std::str::FromStr;

    const BOUNDS: TtlBounds = TtlBounds { min: 0, max: 86_400 };

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn question_bytes() -> Vec<u8> {
        let mut bytes = from_text("www.example.com");
        bytes.extend([0, 1, 0, 1]);
        bytes
    }

    fn response(code: ResponseCode) -> Message {
        let mut message = Message::new(9, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(name("www.example.com."), RecordType::A));
        message
    }

    fn a(ttl: u32) -> HickoryRecord {
        HickoryRecord::from_rdata(name("www.example.com."), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn soa(ttl: u32, minimum: u32) -> HickoryRecord {
        let rdata = SOA::new(name("ns.example.com."), name("host.example.com."), 1, 2, 3, 4, minimum);
        HickoryRecord::from_rdata(name("example.com."), ttl, RData::SOA(rdata))
    }

    fn parse(message: &Message) -> Answer {
        parse_within(message, BOUNDS)
    }

    fn parse_within(message: &Message, bounds: TtlBounds) -> Answer {
        let question = question_bytes();
        Answer::parse(&message.to_vec().unwrap(), Question::starting(&question).unwrap(), bounds).unwrap()
    }

    #[test]
    fn an_answer_lives_as_long_as_its_shortest_record() {
        let mut message = response(ResponseCode::NoError);
        message.add_answers([a(300), a(60)]);
        assert_eq!(parse(&message).lifetime(), 60);
        assert_eq!(parse(&message).ttl_offsets().len(), 2);
    }

    #[test]
    fn a_negative_answer_lives_by_the_soa_and_without_one_is_not_kept() {
        for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
            let mut message = response(code);
            assert_eq!(parse(&message).lifetime(), 0);
            message.add_authority(soa(900, 30));
            assert_eq!(parse(&message).lifetime(), 30);
        }
    }

    #[test]
    fn an_alias_that_leads_nowhere_lives_by_the_soa() {
        let mut message = response(ResponseCode::NoError);
        message.add_answer(HickoryRecord::from_rdata(
            name("www.example.com."),
            300,
            RData::CNAME(CNAME(name("x.example.com."))),
        ));
        assert_eq!(parse(&message).lifetime(), 0);
        message.add_authority(soa(900, 30));
        assert_eq!(parse(&message).lifetime(), 30);
    }

    #[test]
    fn failures_and_truncated_answers_are_not_kept() {
        let mut message = response(ResponseCode::ServFail);
        message.add_authority(soa(900, 30));
        assert_eq!(parse(&message).lifetime(), 0);
        let mut message = response(ResponseCode::NoError);
        message.add_answer(a(300));
        message.metadata.truncation = true;
        assert_eq!(parse(&message).lifetime(), 0);
    }

    #[test]
    fn ttls_are_brought_within_the_bounds() {
        let mut message = response(ResponseCode::NoError);
        message.add_answers([a(1), a(u32::MAX), a(100_000)]);
        let answer = parse_within(&message, TtlBounds { min: 10, max: 1000 });
        let read = Message::from_vec(answer.message()).unwrap();
        assert_eq!(read.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [10, 10, 1000]);
        assert_eq!(answer.lifetime(), 10);
    }

    #[test]
    fn the_upstreams_opt_is_dropped_and_its_extended_errors_kept() {
        let mut message = response(ResponseCode::NoError);
        message.add_answer(a(300));
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(15, b"\x00\x03stale".to_vec()));
        edns.options_mut().insert(EdnsOption::Unknown(12, vec![0; 20]));
        message.edns = Some(edns);
        let answer = parse(&message);
        assert!(Message::from_vec(answer.message()).unwrap().edns.is_none());
        assert_eq!(answer.extended_errors(), b"\x00\x0f\x00\x07\x00\x03stale");
    }

    #[test]
    fn an_answer_to_another_question_is_not_taken() {
        let mut message = response(ResponseCode::NoError);
        message.queries[0].set_name(name("www.example.org."));
        let question = question_bytes();
        let parsed = Answer::parse(&message.to_vec().unwrap(), Question::starting(&question).unwrap(), BOUNDS);
        assert_eq!(parsed, Err(Unusable));
    }

    #[test]
    fn a_failure_without_its_question_is_passed_on_with_ours() {
        let question = question_bytes();
        let bytes = [0, 9, 0x80, 0x05, 0, 0, 0, 0, 0, 0, 0, 0];
        let answer = Answer::parse(&bytes, Question::starting(&question).unwrap(), BOUNDS).unwrap();
        assert_eq!(answer.rcode(), Rcode::REFUSED);
        assert_eq!(&answer.message()[HEADER..], question);
    }

    #[test]
    fn a_query_and_a_cut_message_are_malformed() {
        let question = question_bytes();
        let question = Question::starting(&question).unwrap();
        let mut message = response(ResponseCode::NoError);
        message.add_answer(a(300));
        let bytes = message.to_vec().unwrap();
        for length in 0..bytes.len() {
            assert!(Answer::parse(&bytes[..length], question, BOUNDS).is_err(), "{length}");
        }
        message.metadata.message_type = MessageType::Query;
        assert_eq!(Answer::parse(&message.to_vec().unwrap(), question, BOUNDS), Err(Unusable));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            counts in any::<[u8; 3]>(), rcode in 0u8..16, tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let question = question_bytes();
            let mut bytes = vec![0, 9, 0x80, rcode, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]];
            bytes.extend(&question);
            bytes.extend(tail);
            if let Ok(answer) = Answer::parse(&bytes, Question::starting(&question).unwrap(), BOUNDS) {
                prop_assert!(answer.ttl_offsets().iter().all(|at| usize::from(*at) + 4 <= answer.message().len()));
            }
        }
    }
}
