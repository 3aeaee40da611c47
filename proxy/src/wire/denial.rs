//! A name that does not exist has none below it (RFC 8020): the NXDOMAIN of one, told of another.

use super::answer::{Answer, Outline};
use super::name::{self, expand};
use super::request::Question;
use super::{HEADER, Record, read_u16, rtype};

impl Answer {
    /// The same NXDOMAIN for a question whose name is the one denied, or lies below it. Carries what proves it: the SOA,
    /// and with DO the NSEC or NSEC3 records, which deny all names below as well, and their signatures. It is not to be
    /// kept: what it was made from is. `None` where the records cannot be told elsewhere, or the name itself is not denied.
    pub fn for_name_below(&self, question: Question<'_>) -> Option<Self> {
        if !self.denies_name() {
            return None;
        }
        let mut message = self.message().get(..HEADER)?.to_vec();
        message[6..HEADER].fill(0);
        message.extend(question.as_bytes());
        let (mut ttls, mut records) = (Vec::new(), 0u16);
        let mut at = HEADER + self.question()?.as_bytes().len();
        for _ in 0..read_u16(self.message(), 8)? {
            let record = Record::at(self.message(), at)?;
            at = record.end;
            if let Some(ttl_at) = self.retell(&mut message, &record)? {
                ttls.push((ttl_at, record.ttl));
                records += 1;
            }
        }
        message[8..10].copy_from_slice(&records.to_be_bytes());
        let outline = Outline {
            lifetime: 0,
            message: message.len(),
            ttls: ttls.len(),
            extended_errors: self.extended_errors().len(),
            denies_name: true,
        };
        Self::write(&outline, |parts| {
            parts.message.copy_from_slice(&message);
            parts.extended_errors.copy_from_slice(self.extended_errors());
            for (index, (at, ttl)) in ttls.into_iter().enumerate() {
                parts.set_ttl(index, at, ttl);
            }
        })
    }

    /// Appends a record with its names in full, and says where its TTL stands; skips what proves nothing.
    fn retell(&self, message: &mut Vec<u8>, record: &Record) -> Option<Option<usize>> {
        let rdata = &self.message()[record.rdata..record.end];
        // Names in the data of these are not compressed (RFC 4034 §3.1.7, §4.1.1), but where a server errs.
        let plain_name = match record.rtype {
            rtype::SOA | rtype::NSEC3 => None,
            rtype::RRSIG => Some(rdata.get(18..)?),
            rtype::NSEC => Some(rdata),
            _ => return Some(None),
        };
        if let Some(plain_name) = plain_name {
            name::uncompressed_length(plain_name)?;
        }
        expand(self.message(), record.start, message)?;
        message.extend(&self.message()[record.ttl_at - 4..record.ttl_at + 4]);
        let ttl_at = message.len() - 4;
        message.extend([0, 0]);
        let start = message.len();
        if record.rtype == rtype::SOA {
            let second = expand(self.message(), record.rdata, message)?;
            let numbers = expand(self.message(), second, message)?;
            message.extend(self.message().get(numbers..record.end).filter(|numbers| numbers.len() == 20)?);
        } else {
            message.extend(rdata);
        }
        let length = u16::try_from(message.len() - start).ok()?;
        message[start - 2..start].copy_from_slice(&length.to_be_bytes());
        Some(Some(ttl_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use crate::wire::response::TtlBounds;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::{Name, RData, Record as HickoryRecord, RecordType};
    use proptest::prelude::*;
    use std::str::FromStr;

    fn question(name: &str) -> Vec<u8> {
        [from_text(name), vec![0, 28, 0, 1]].concat()
    }

    /// An NXDOMAIN for `no.example.com`, whose names are compressed as servers do.
    fn denial(more: &[u8], count: u8) -> Answer {
        let name = |text: &str| Name::from_str(text).unwrap();
        let mut message = Message::new(9, MessageType::Response, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        message.add_query(Query::query(name("no.example.com."), RecordType::AAAA));
        let rdata = SOA::new(name("ns.example.com."), name("host.example.com."), 1, 2, 3, 4, 30);
        message.add_authority(HickoryRecord::from_rdata(name("example.com."), 900, RData::SOA(rdata)));
        let mut bytes = message.to_vec().unwrap();
        bytes.extend(more);
        bytes[9] += count;
        let question = question("no.example.com");
        let bounds = TtlBounds { min: 0, max: 86_400 };
        Answer::parse(&bytes, Question::starting(&question).unwrap(), bounds).unwrap()
    }

    #[test]
    fn what_is_denied_behind_an_answer_is_not_told_of_names_below() {
        let mut message = Message::new(9, MessageType::Response, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        let name = |text: &str| Name::from_str(text).unwrap();
        message.add_query(Query::query(name("no.example.com."), RecordType::AAAA));
        let rdata = SOA::new(name("ns.example.com."), name("host.example.com."), 1, 2, 3, 4, 30);
        let record = HickoryRecord::from_rdata(name("example.com."), 900, RData::SOA(rdata));
        message.add_answer(record.clone());
        message.add_authority(record);
        let question = question("no.example.com");
        let bounds = TtlBounds { min: 0, max: 86_400 };
        let answer = Answer::parse(&message.to_vec().unwrap(), Question::starting(&question).unwrap(), bounds).unwrap();
        assert!(told(&answer, "x.no.example.com").is_none());
    }

    fn told(denial: &Answer, name: &str) -> Option<Message> {
        let question = question(name);
        let answer = denial.for_name_below(Question::starting(&question).unwrap())?;
        assert!(answer.ttl_offsets().all(|at| answer.message()[at..at + 4] == [0, 0, 0, 30]));
        Some(Message::from_vec(answer.message()).unwrap())
    }

    #[test]
    fn a_denial_told_of_a_longer_name_keeps_its_soa_whole() {
        let message = told(&denial(&[], 0), "a.b.no.example.com").unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(message.queries[0].name().to_string(), "a.b.no.example.com.");
        let soa = &message.authorities[0];
        assert_eq!((soa.name.to_string().as_str(), soa.ttl), ("example.com.", 30));
        assert_eq!(soa.data.to_string(), "ns.example.com. host.example.com. 1 2 3 4 30");
    }

    #[test]
    fn signatures_and_proofs_are_told_too_and_what_proves_nothing_is_not() {
        let rrsig = [&[0xc0, 15, 0, 46, 0, 1, 0, 0, 0, 30, 0, 23][..], &[7; 18], &[3, b'c', b'o', b'm', 0]].concat();
        let nsec = [0xc0, 15, 0, 47, 0, 1, 0, 0, 0, 30, 0, 8, 1, b'z', 0, 0, 1, 0x40, 0, 0];
        let ns = [0xc0, 15, 0, 2, 0, 1, 0, 0, 0, 30, 0, 2, 0xc0, 15];
        let message = told(&denial(&[&rrsig[..], &nsec, &ns].concat(), 3), "a.no.example.com").unwrap();
        let types: Vec<_> = message.authorities.iter().map(|record| u16::from(record.record_type())).collect();
        assert_eq!(types, [rtype::SOA, rtype::RRSIG, rtype::NSEC]);
        assert!(message.authorities.iter().all(|record| record.name.to_string() == "example.com."));
    }

    proptest! {
        #[test]
        fn any_records_are_told_whole_or_not_at_all(
            records in prop::collection::vec((0usize..4, prop::collection::vec(any::<u8>(), 0..40), 0u8..50), 0..5),
        ) {
            let mut bytes = Vec::new();
            for (rtype, rdata, pointer) in &records {
                bytes.extend([0xc0, *pointer, 0, [2, 6, 46, 47][*rtype], 0, 1, 0, 0, 0, 30, 0]);
                bytes.push(u8::try_from(rdata.len()).unwrap());
                bytes.extend(rdata);
            }
            let question = question("no.example.com");
            let head = [0, 9, 0x80, 3, 0, 1, 0, 0, 0, u8::try_from(records.len()).unwrap(), 0, 0];
            let bytes = [&head[..], &question, &bytes].concat();
            let bounds = TtlBounds { min: 0, max: 86_400 };
            let longer = self::question("a.no.example.com");
            let longer = Question::starting(&longer).unwrap();
            if let Ok(answer) = Answer::parse(&bytes, Question::starting(&question).unwrap(), bounds)
                && let Some(told) = answer.for_name_below(longer)
            {
                // It is itself a message whose every record can be read.
                let again = Answer::parse(told.message(), longer, bounds).unwrap();
                prop_assert_eq!(again.message(), told.message());
            }
        }
    }

    #[test]
    fn a_proof_that_cannot_be_moved_is_not_told() {
        let compressed = [0xc0, 15, 0, 47, 0, 1, 0, 0, 0, 30, 0, 2, 0xc0, 15];
        assert!(told(&denial(&compressed, 1), "a.no.example.com").is_none());
    }

    #[test]
    fn an_address_in_the_additional_section_is_not_told() {
        let answer = denial(&[], 0);
        let mut bytes = answer.message().to_vec();
        bytes.extend([0, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
        bytes[11] = 1;
        let question = question("no.example.com");
        let question = Question::starting(&question).unwrap();
        let bounds = TtlBounds { min: 0, max: 86_400 };
        let message = told(&Answer::parse(&bytes, question, bounds).unwrap(), "a.no.example.com").unwrap();
        assert!(message.additionals.is_empty());
    }
}
