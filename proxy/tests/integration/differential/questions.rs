//! The questions: a sequence that is mixed, and always the same for a seed.

use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::{Name, RecordType};

use super::zone::{EACH, ORIGIN};
use crate::client::message;
use crate::numbers::Numbers;

/// A question, and how it is asked.
#[derive(Debug)]
pub struct Question {
    id: u16,
    name: String,
    record_type: RecordType,
    /// The size that the client takes over UDP, and whether it sets DO.
    edns: Option<(u16, bool)>,
    checking_disabled: bool,
    authentic_data: bool,
    pub over_tcp: bool,
}

/// Labels before the origin, and a type that they have, or could have; `#` is a number, `%` one that is hardly ever
/// asked again.
const NAMES: &[(&str, u16)] = &[
    ("", 6),
    ("", 48),
    ("", 257),
    ("", 15),
    ("", 16),
    ("ns", 1),
    ("ns2", 28),
    ("mail", 1),
    ("www", 65),
    ("_dns", 64),
    ("x.wild", 16),
    ("%.wild", 1),
    ("a.moved", 1),
    ("%.moved", 1),
    ("moved", 39),
    ("child", 43),
    ("_443._tcp.www", 52),
    ("ssh", 44),
    ("number", 35),
    ("machine", 13),
    ("place", 29),
    ("reverse", 12),
    ("wild", 1),
    ("_tcp.www", 1),
    ("host#", 1),
    ("host#", 28),
    ("host#", 16),
    ("many#", 1),
    ("mail#", 15),
    ("_sip._tcp.service#", 33),
    ("service#", 33),
    ("alias#", 1),
    ("dangling#", 1),
    ("away#", 1),
    ("chain#-0", 1),
    ("chain#-2", 28),
    ("chain#-1", 5),
    ("signed#", 1),
    ("signed#", 46),
    ("text#", 16),
    ("text#", 16),
    ("text#", 16),
    ("unknown#", 65280),
    ("empty#", 1),
    ("inside.empty#", 1),
    ("missing#", 1),
    ("below.missing#", 1),
    ("%", 1),
    ("a.b.c.%", 28),
    ("below.host#", 1),
];

/// Types that are asked of names that mostly do not have them.
const TYPES: &[u16] = &[
    1, 1, 1, 1, 28, 28, 28, 65, 65, 16, 16, 15, 5, 2, 6, 12, 33, 35, 43, 46, 48, 51, 13, 29, 39, 44, 52, 64, 257,
    65_280, 65_281, 99,
];

/// Questions without end.
pub fn questions(seed: u64) -> impl Iterator<Item = Question> {
    let mut random = Numbers::from_seed(seed);
    std::iter::repeat_with(move || {
        let (labels, own_type) = *random.of(NAMES);
        let labels = labels.replace('#', &random.below(EACH).to_string());
        let labels = labels.replace('%', &format!("rare{}", random.below(1_000_000)));
        let name = if labels.is_empty() { ORIGIN.to_owned() } else { format!("{labels}.{ORIGIN}") };
        let mixed = random.below(2) == 0;
        let name =
            name.chars().map(|c| if mixed && random.below(2) == 0 { c.to_ascii_uppercase() } else { c }).collect();
        let edns = match random.below(4) {
            0 => None,
            1 => Some((512, random.below(2) == 0)),
            2 => Some((1232, random.below(2) == 0)),
            _ => Some((4096, random.below(2) == 0)),
        };
        Question {
            id: u16::try_from(random.below(65_536)).unwrap(),
            name,
            record_type: if random.below(3) == 0 { *random.of(TYPES) } else { own_type }.into(),
            edns,
            checking_disabled: random.below(8) == 0,
            authentic_data: random.below(8) == 0,
            over_tcp: random.below(5) == 0,
        }
    })
}

impl Question {
    /// The query that asks it.
    pub fn message(&self) -> Message {
        let mut query = message(self.id, ".", self.record_type);
        query.queries[0].set_name(Name::from_ascii(&self.name).unwrap());
        query.metadata.checking_disabled = self.checking_disabled;
        query.metadata.authentic_data = self.authentic_data;
        query.edns = self.edns.map(|(payload, dnssec_ok)| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
            edns
        });
        query
    }
}
