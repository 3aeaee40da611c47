//! What an upstream answered.

mod age;

use std::time::Duration;

use super::answer::{Outline, Parts};
use super::request::Question;
use super::{HEADER, Rcode, Record, flag, option, read_u16, read_u32, rtype};

pub use self::age::shorten;
pub use super::answer::Answer;

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

/// A name may come into being: negative answers are kept for three hours at most, whatever the SOA says (RFC 2308 §5).
const LONGEST_NEGATIVE: u32 = 3 * 3600;

/// Whether a message is a response to this question, as far as its head tells; what is not is not for us.
pub fn answers(response: &[u8], question: Question<'_>) -> bool {
    let (Some(flags), Some(questions)) = (read_u16(response, 2), read_u16(response, 4)) else { return false };
    let code = flags & flag::RCODE;
    response.len() >= HEADER
        && flags & (flag::QR | flag::OPCODE) == flag::QR
        && match questions {
            // Some servers leave the question out when they fail; the code is all there is to pass on.
            0 => !matches!(Rcode(code), Rcode::NOERROR | Rcode::NXDOMAIN),
            1 => Question::starting(&response[HEADER..]).is_some_and(|theirs| theirs.same_as(question)),
            _ => false,
        }
}

/// How long the server keeps an idle connection open, where it says so in a response (edns-tcp-keepalive, RFC 7828).
pub fn keepalive(response: &[u8]) -> Option<Duration> {
    let opt = opt(response)?;
    let opt = &response[opt.rdata..opt.end];
    // RFC 7828 §3.1: two octets, in units of 100 milliseconds; of another length it means nothing.
    let (_, told) = option::each(opt).find(|(code, told)| *code == option::TCP_KEEPALIVE && told.len() == 6)?;
    Some(Duration::from_millis(100) * u32::from(read_u16(told, 4)?))
}

/// A response's code, with the upper bits that stand in its OPT (RFC 6891 §6.1.3).
pub fn rcode(response: &[u8]) -> Option<Rcode> {
    let upper = opt(response).map_or(0, |opt| opt.ttl >> 24 << 4);
    Some(Rcode(read_u16(response, 2)? & flag::RCODE | u16::try_from(upper).ok()?))
}

/// The text of a response's extended error, the first if there are several (RFC 8914), fit to be shown.
pub fn extended_error(response: &[u8]) -> Option<String> {
    let opt = opt(response)?;
    let error = extended_errors(&response[opt.rdata..opt.end]).next()?;
    let text = String::from_utf8_lossy(error.get(6..)?);
    Some(text.chars().filter(|character| !character.is_control()).collect())
}

/// The records of a response's answer section.
pub(crate) fn answer_records(response: &[u8]) -> impl Iterator<Item = Record> {
    let question = response.get(HEADER..).and_then(Question::starting);
    let start = HEADER + question.map_or(0, |question| question.as_bytes().len());
    let answers = Counts::of(response).records(response, start).filter(|(section, _)| *section == Section::Answer);
    answers.map(|(_, record)| record)
}

fn opt(response: &[u8]) -> Option<Record> {
    let question = Question::starting(response.get(HEADER..)?)?;
    let mut records = Counts::of(response).records(response, HEADER + question.as_bytes().len());
    let opt = records.find(|(section, record)| *section == Section::Additional && record.rtype == rtype::OPT);
    opt.map(|(_, record)| record)
}

fn extended_errors(opt: &[u8]) -> impl Iterator<Item = &[u8]> {
    option::each(opt).filter(|(code, _)| *code == option::EXTENDED_ERROR).map(|(_, this)| this)
}

/// How many records the header promises.
#[derive(Debug, Clone, Copy)]
struct Counts {
    answers: u32,
    authorities: u32,
    additionals: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Answer,
    Authority,
    Additional,
}

impl Counts {
    fn of(message: &[u8]) -> Self {
        let word = |at| u32::from(read_u16(message, at).unwrap_or_default());
        Self { answers: word(6), authorities: word(8), additionals: word(10) }
    }

    fn all(self) -> u32 {
        self.answers + self.authorities + self.additionals
    }

    /// The records from an offset on, until the first that is cut.
    fn records(self, message: &[u8], mut at: usize) -> impl Iterator<Item = (Section, Record)> {
        (0..self.all()).map_while(move |index| {
            let record = Record::owned_at(message, at)?;
            at = record.end;
            let section = match index {
                _ if index < self.answers => Section::Answer,
                _ if index < self.answers + self.authorities => Section::Authority,
                _ => Section::Additional,
            };
            Some((section, record))
        })
    }
}

impl Answer {
    /// Reads the response to a question. TTLs are brought within the bounds.
    pub fn parse(response: &[u8], question: Question<'_>, bounds: TtlBounds) -> Result<Self, Unusable> {
        if !answers(response, question) {
            return Err(Unusable);
        }
        let counts = Counts::of(response);
        if read_u16(response, 4) == Some(0) {
            Survey::of(response, HEADER, counts, question.qtype(), bounds)?;
            return Self::bare(response, question);
        }
        let start = HEADER + question.as_bytes().len();
        let survey = Survey::of(response, start, counts, question.qtype(), bounds)?;
        let outline = survey.outline(response);
        let fill = |parts: &mut Parts<'_>| {
            parts.message.copy_from_slice(&response[..survey.end]);
            let additionals = u16::try_from(survey.records - counts.answers - counts.authorities);
            parts.message[10..HEADER].copy_from_slice(&additionals.expect("it was read from 16 bits").to_be_bytes());
            let mut rest = &mut *parts.extended_errors;
            for error in extended_errors(survey.opt.unwrap_or_default()) {
                let (this, behind) = std::mem::take(&mut rest).split_at_mut(error.len());
                this.copy_from_slice(error);
                rest = behind;
            }
            for (index, (section, record)) in counts.records(response, start).take(outline.ttls).enumerate() {
                let ttl = bounds.ttl(response, section, &record).expect("the survey has read it");
                parts.set_ttl(index, record.ttl_at, ttl);
            }
        };
        let answer = Self::write(&outline, fill).ok_or(Unusable)?;
        // The question's name alone needs no look: no TTL stands in it.
        if survey.has_other_owners && !answer.owners_stand_apart() { Err(Unusable) } else { Ok(answer) }
    }

    /// A failure that came without its question, with ours.
    fn bare(response: &[u8], question: Question<'_>) -> Result<Self, Unusable> {
        let outline = Outline { message: HEADER + question.as_bytes().len(), ..Outline::default() };
        let written = Self::write(&outline, |parts| {
            parts.message[2..4].copy_from_slice(&response[2..4]);
            parts.message[5] = 1;
            parts.message[HEADER..].copy_from_slice(question.as_bytes());
        });
        written.ok_or(Unusable)
    }
}

impl TtlBounds {
    /// What a record's TTL comes to; `None` for an SOA that is cut.
    fn ttl(self, message: &[u8], section: Section, record: &Record) -> Option<u32> {
        // RFC 2181 §8: a TTL with the top bit set counts as zero.
        let mut ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl };
        if record.rtype == rtype::SOA && section == Section::Authority {
            // RFC 2308 §5: a negative answer lives as long as the lesser of the SOA's TTL and its MINIMUM, its last field.
            let minimum = record.end.checked_sub(4).filter(|at| *at >= record.rdata)?;
            ttl = ttl.min(read_u32(message, minimum)?).min(LONGEST_NEGATIVE);
        }
        Some(ttl.clamp(self.min, self.max))
    }
}

/// What is learnt while walking through the records once.
struct Survey<'a> {
    /// Where the last record that is kept ends.
    end: usize,
    /// How many are kept.
    records: u32,
    /// The data of the OPT.
    opt: Option<&'a [u8]>,
    least_ttl: Option<u32>,
    answered: bool,
    authority_is_known: bool,
    /// Whether any record's owner is given otherwise than by a pointer to the question's name.
    has_other_owners: bool,
}

impl<'a> Survey<'a> {
    fn of(response: &'a [u8], start: usize, counts: Counts, qtype: u16, bounds: TtlBounds) -> Result<Self, Unusable> {
        let mut survey = Self {
            end: start,
            records: 0,
            opt: None,
            least_ttl: None,
            answered: false,
            authority_is_known: false,
            has_other_owners: false,
        };
        let (mut seen, mut end) = (0, start);
        for (section, record) in counts.records(response, start) {
            (seen, end) = (seen + 1, record.end);
            if record.rtype == rtype::OPT {
                survey.meet_opt(response, section, &record)?;
            }
            // What may follow the OPT is optional too: cutting there keeps every compression pointer right.
            if survey.opt.is_some() {
                continue;
            }
            let ttl = bounds.ttl(response, section, &record).ok_or(Unusable)?;
            survey.least_ttl = Some(survey.least_ttl.map_or(ttl, |least| least.min(ttl)));
            survey.answered |= section == Section::Answer && (record.rtype == qtype || qtype == rtype::ANY);
            survey.authority_is_known |= section == Section::Authority && record.rtype == rtype::SOA;
            survey.has_other_owners |= !record.is_of_question(response);
            survey.end = record.end;
            survey.records += 1;
        }
        // Records that are missing, and octets that belong to none.
        if seen != counts.all() || end != response.len() { Err(Unusable) } else { Ok(survey) }
    }

    /// RFC 6891 §6.1.1, §6.1.2: at most one, in the additional section, owned by the root, options to its end.
    fn meet_opt(&mut self, response: &'a [u8], section: Section, record: &Record) -> Result<(), Unusable> {
        let rdata = &response[record.rdata..record.end];
        let is_alone = section == Section::Additional && self.opt.is_none();
        // An extended code (BADVERS …) answers our EDNS and not the question.
        if !is_alone || !record.is_of_root(response) || !option::are_whole(rdata) || record.ttl >> 24 != 0 {
            return Err(Unusable);
        }
        self.opt = Some(rdata);
        Ok(())
    }

    fn outline(&self, response: &[u8]) -> Outline {
        let flags = read_u16(response, 2).unwrap_or_default();
        let rcode = Rcode(flags & flag::RCODE);
        let cacheable = flags & flag::TC == 0
            && match rcode {
                Rcode::NOERROR => self.answered || self.authority_is_known,
                Rcode::NXDOMAIN => self.authority_is_known,
                _ => false,
            };
        Outline {
            lifetime: if cacheable { self.least_ttl.unwrap_or(0) } else { 0 },
            message: self.end,
            ttls: self.records as usize,
            extended_errors: extended_errors(self.opt.unwrap_or_default()).map(<[u8]>::len).sum(),
            denies_name: cacheable && rcode == Rcode::NXDOMAIN && Counts::of(response).answers == 0,
        }
    }
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
            message.authorities[0] = soa(86_400, 86_400);
            assert_eq!(parse(&message).lifetime(), LONGEST_NEGATIVE);
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
    fn an_extended_code_answers_our_edns_and_not_the_question() {
        let mut message = response(ResponseCode::NoError);
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        let extended_code = bytes.len() - 6;
        bytes[extended_code] = 1; // BADVERS
        let question = question_bytes();
        assert_eq!(Answer::parse(&bytes, Question::starting(&question).unwrap(), BOUNDS), Err(Unusable));
    }

    /// Whether a response with these octets behind its question, counted as additional records, can be used.
    fn is_usable_with(additionals: u8, octets: &[u8]) -> bool {
        let question = question_bytes();
        let head = [0, 9, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, additionals];
        let bytes = [&head[..], &question, octets].concat();
        Answer::parse(&bytes, Question::starting(&question).unwrap(), BOUNDS).is_ok()
    }

    #[test]
    fn a_record_whose_name_leads_nowhere_or_in_circles_makes_a_response_unusable() {
        let owned_by = |owner: &[u8]| is_usable_with(1, &[owner, &[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]].concat());
        let at = u8::try_from(HEADER + question_bytes().len()).unwrap();
        assert!(owned_by(&[0xc0, 12]) && owned_by(&[1, b'a', 0xc0, 16]) && owned_by(&[0]));
        assert!(!owned_by(&[0xc0, at]) && !owned_by(&[1, b'a', 0xc0, at]) && !owned_by(&[0xff, 0xff]));
    }

    #[test]
    fn a_name_that_leads_into_a_ttl_makes_a_response_unusable() {
        let first = HEADER + question_bytes().len();
        let owned_by = |at: usize| {
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, b'a', 0, 4, 192, 0, 2, 1];
            let pointer = [0xc0, u8::try_from(at).unwrap()];
            let next = [0, 1, 0, 1, 0, 0, 0, 60, 0, 0];
            is_usable_with(2, &[&record[..], &pointer, &next].concat())
        };
        // The first record's owner; then the octets of its TTL; then its length, and data.
        assert!(owned_by(first));
        for at in first + 6..first + 10 {
            assert!(!owned_by(at), "{at}");
        }
        assert!(owned_by(first + 10));
    }

    #[test]
    fn what_stands_behind_the_opt_has_to_be_whole_although_it_is_dropped() {
        const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        const RECORD: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1];
        assert!(is_usable_with(1, OPT) && is_usable_with(2, &[OPT, RECORD].concat()));
        assert!(!is_usable_with(1, &[OPT, &[0]].concat()), "octets that belong to no record");
        assert!(!is_usable_with(2, OPT), "a record that is missing");
        assert!(!is_usable_with(2, &[OPT, &RECORD[..15]].concat()), "a record that is cut");
        assert!(!is_usable_with(2, &[OPT, OPT].concat()), "a second OPT");
        assert!(!is_usable_with(1, &[&[1, b'a'], OPT].concat()), "an OPT of another name than the root");
        assert!(!is_usable_with(1, &[&OPT[..10], &[3, 0, 15, 0]].concat()), "an OPT whose option is cut");
    }

    #[test]
    fn what_the_server_says_of_idle_connections_is_read() {
        let told = |option: &[u8]| {
            let mut message = response(ResponseCode::NoError);
            message.add_answer(a(300));
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(12, vec![0; 20]));
            edns.options_mut().insert(EdnsOption::Unknown(11, option.to_vec()));
            message.edns = Some(edns);
            keepalive(&message.to_vec().unwrap())
        };
        assert_eq!(told(&[1, 0]), Some(Duration::from_millis(25_600)));
        assert_eq!(told(&[0, 0]), Some(Duration::ZERO));
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[1, 2, 3]), None);
        assert_eq!(keepalive(&response(ResponseCode::NoError).to_vec().unwrap()), None);
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
        let cut = [&bytes[..11], &[1]].concat();
        assert_eq!(Answer::parse(&cut, Question::starting(&question).unwrap(), BOUNDS), Err(Unusable));
    }

    #[test]
    fn a_query_another_operation_and_a_cut_message_are_malformed() {
        let question = question_bytes();
        let question = Question::starting(&question).unwrap();
        let mut message = response(ResponseCode::NoError);
        message.add_answer(a(300));
        let bytes = message.to_vec().unwrap();
        for length in 0..bytes.len() {
            assert!(Answer::parse(&bytes[..length], question, BOUNDS).is_err(), "{length}");
        }
        message.metadata.op_code = OpCode::Update;
        assert_eq!(Answer::parse(&message.to_vec().unwrap(), question, BOUNDS), Err(Unusable));
        message.metadata.op_code = OpCode::Query;
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
            let _ = keepalive(&bytes);
            if let Ok(answer) = Answer::parse(&bytes, Question::starting(&question).unwrap(), BOUNDS) {
                prop_assert!(answer.ttl_offsets().all(|at| at + 4 <= answer.message().len()));
            }
        }
    }
}
