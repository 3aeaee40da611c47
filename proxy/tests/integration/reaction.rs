//! What a server does with a query, as a test tells it.

use std::time::Duration;

use hickory_proto::op::Message;

use crate::answers::{answer, truncated};

/// What a server does with a query.
#[derive(Debug, Clone, Copy)]
pub enum Reaction {
    /// Answers it.
    Answer,
    /// Answers it so much later, and other queries meanwhile.
    Late(Duration),
    /// Answers it once this many have come on the connection, the latest first.
    AnswerInReverse(usize),
    /// Sends what this makes of the answer.
    Altered(fn(&mut Message)),
    /// Sends what this makes of the answer so much later.
    AlteredLate(Duration, fn(&mut Message)),
    /// Sends what this makes of the answer, and then the answer.
    AfterAnAltered(fn(&mut Message)),
    /// Sends octets that are no DNS message, and then the answer.
    AfterGarbage,
    /// Sends the answer without its last octets, as if that were the whole.
    WithoutItsEnd,
    /// Answers it, and answers it again.
    Twice,
    /// Says nothing.
    Silence,
    /// Closes the connection.
    Close,
    /// Answers it and closes the connection.
    AnswerAndClose,
    /// Resets the connection: whatever was on its way is lost.
    Reset,
    /// Announces the answer's length, sends half of it, and closes the connection.
    CutShort,
    /// Answers with TC and no records over UDP, and in full over TCP.
    Truncate,
}

impl Reaction {
    /// The messages that are sent, in this order.
    pub fn messages(self, query: &Message) -> Vec<Vec<u8>> {
        let right = || answer(query).to_vec().unwrap();
        let altered = |alter: fn(&mut Message)| {
            let mut reply = answer(query);
            alter(&mut reply);
            reply.to_vec().unwrap()
        };
        match self {
            Self::Silence | Self::Close | Self::Reset => Vec::new(),
            Self::Altered(alter) | Self::AlteredLate(_, alter) => vec![altered(alter)],
            Self::AfterAnAltered(alter) => vec![altered(alter), right()],
            Self::AfterGarbage => vec![vec![0xff; 40], Vec::new(), vec![0; 5], right()],
            Self::WithoutItsEnd => vec![right().split_at(right().len() - 20).0.to_vec()],
            Self::Twice => vec![right(), right()],
            Self::Answer
            | Self::Late(_)
            | Self::AnswerInReverse(_)
            | Self::AnswerAndClose
            | Self::CutShort
            | Self::Truncate => vec![right()],
        }
    }

    /// The same for a server of plain DNS, in datagrams.
    pub fn datagrams(self, query: &Message) -> Vec<Vec<u8>> {
        match self {
            Self::Truncate => vec![truncated(query).to_vec().unwrap()],
            _ => self.messages(query),
        }
    }
}
