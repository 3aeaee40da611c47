//! What a forger must guess, beside address and port: the id, the question, and the case of its letters
//! (draft-vixie-dnsext-dns0x20).

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::events::{Event, Events};
use crate::wire::request::Question;
use crate::wire::{self, HEADER, response};

/// Why a datagram was not taken for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stray {
    /// It has another id.
    Id,
    /// It is no response, or to another question.
    Question,
    /// It repeats the question in other letters, or not at all. A few servers do that; so TCP has to tell.
    Case,
}

/// Counts a server's datagrams that were not taken, and tells of them.
#[derive(Debug, Clone)]
pub struct Strays {
    group: Arc<str>,
    server: Arc<str>,
    counters: Family<StrayLabels, Counter>,
    events: Events,
}

/// What strays are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StrayLabels {
    group: Arc<str>,
    server: Arc<str>,
    why: Stray,
}

impl StrayLabels {
    /// All that can be counted of a server.
    pub fn all(group: &Arc<str>, server: &Arc<str>) -> impl Iterator<Item = Self> {
        let labels = |why| Self { group: Arc::clone(group), server: Arc::clone(server), why };
        [Stray::Id, Stray::Question, Stray::Case].map(labels).into_iter()
    }
}

impl Stray {
    /// The word, for labels and events.
    fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id-mismatch",
            Self::Question => "question-mismatch",
            Self::Case => "case-mismatch",
        }
    }
}

impl EncodeLabelValue for Stray {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl Strays {
    /// Those of a server.
    pub fn of(group: Arc<str>, server: Arc<str>, counters: Family<StrayLabels, Counter>, events: Events) -> Self {
        Self { group, server, counters, events }
    }

    /// Counts one, and tells of it.
    pub(super) fn note(&self, why: Stray) {
        let labels = StrayLabels { group: Arc::clone(&self.group), server: Arc::clone(&self.server), why };
        self.counters.get_or_create(&labels).inc();
        let StrayLabels { group, server, why } = labels;
        self.events.emit(Event::AnswerRefused { server, group, why: why.as_str() });
    }
}

/// A question's bytes with the case of each letter left to chance.
pub(super) fn in_random_case(question: Question<'_>) -> Vec<u8> {
    let mut chance = [0; wire::name::LONGEST.div_ceil(8)];
    // Without randomness from the system no TLS connection exists either; the case as it came is then the least harm.
    let _ = aws_lc_rs::rand::fill(&mut chance);
    let mut bytes = question.as_bytes().to_vec();
    let name = question.name().as_bytes().len();
    // Length octets are below 64, and so never letters.
    for (at, octet) in bytes[..name].iter_mut().enumerate() {
        if octet.is_ascii_alphabetic() && chance[at / 8] >> (at % 8) & 1 == 1 {
            *octet ^= 0x20;
        }
    }
    bytes
}

/// Whether a datagram is the answer to what was sent, or what is wrong with it.
pub(super) fn judge(message: &[u8], id: u16, sent: Question<'_>) -> Result<(), Stray> {
    if wire::id(message) != Some(id) {
        return Err(Stray::Id);
    }
    if !response::answers(message, sent) {
        return Err(Stray::Question);
    }
    match message.get(HEADER..HEADER + sent.as_bytes().len()) {
        Some(bytes) if bytes == sent.as_bytes() && wire::read_u16(message, 4) == Some(1) => Ok(()),
        _ => Err(Stray::Case),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use std::collections::HashSet;

    fn question(name: &str) -> Vec<u8> {
        [from_text(name), vec![0, 1, 0, 1]].concat()
    }

    fn reply(id: u16, flags: [u8; 2], question: &[u8]) -> Vec<u8> {
        [&id.to_be_bytes()[..], &flags, &[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0], question].concat()
    }

    #[test]
    fn letters_are_sent_in_a_case_that_cannot_be_guessed_and_nothing_else_is_changed() {
        let bytes = question("www-1.kubernetes.default.svc.cluster.local");
        let question = Question::starting(&bytes).unwrap();
        let sent: HashSet<_> = (0..200).map(|_| in_random_case(question)).collect();
        assert!(sent.len() > 190, "{}", sent.len());
        assert!(sent.iter().all(|sent| Question::starting(sent).unwrap().same_as(question)));
        assert!(sent.iter().all(|sent| sent[sent.len() - 4..] == bytes[bytes.len() - 4..]));
        let root = [0, 0, 65, 0, 97]; // type and class that look like letters
        assert_eq!(in_random_case(Question::starting(&root).unwrap()), root);
    }

    #[test]
    fn only_the_answer_to_what_was_sent_in_its_very_letters_is_taken() {
        let bytes = question("www.example.com");
        let sent = Question::starting(&bytes).unwrap();
        let mut other_case = bytes.clone();
        other_case[1] ^= 0x20;
        for (message, judged) in [
            (reply(7, [0x81, 0x80], &bytes), Ok(())),
            (reply(8, [0x81, 0x80], &bytes), Err(Stray::Id)),
            (vec![0, 7, 0x81], Err(Stray::Id)),
            (reply(7, [0x01, 0x80], &bytes), Err(Stray::Question)),
            (reply(7, [0x81, 0x80], &question("xxx.example.com")), Err(Stray::Question)),
            (reply(7, [0x81, 0x80], &[]), Err(Stray::Question)),
            (reply(7, [0x81, 0x80], &other_case), Err(Stray::Case)),
            (reply(7, [0x81, 0x82], &[]), Err(Stray::Case)),
            ([reply(7, [0x81, 0x82], &[]), bytes.clone()].concat(), Err(Stray::Case)),
        ] {
            assert_eq!(judge(&message, 7, sent), judged, "{message:?}");
        }
    }
}
