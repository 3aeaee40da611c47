//! Proving that a server can be used: one authenticated exchange before anything depends on it.

use std::fmt;
use std::time::Duration;

use dot_proxy_config::Suffix;
use tokio::time::Instant;

use super::cause::Cause;
use super::connection::Query;
use super::kept::Which;
use super::server::Server;
use crate::wire::name::from_text;
use crate::wire::request::{Asked, Question};
use crate::wire::response::TtlBounds;
use crate::wire::{CLASS_IN, Rcode, flag, rtype};

/// Why a server is not proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproved {
    /// It could not be reached, did not prove who it is, or did not answer.
    Failed(Cause),
    /// It answers that it does not serve us (REFUSED).
    Refused,
}

/// What a server is asked to be proved: its answer is of no interest, but that it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge(Box<[u8]>);

impl Unproved {
    /// The word: that of the cause, or `refused`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed(cause) => cause.as_str(),
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Challenge {
    /// For a resolver of public names: the address of `localhost`, which resolvers answer by themselves (RFC 6761 §6.3), also
    /// those that are cut off from the root, and which tells nobody anything.
    pub fn to_a_resolver() -> Self {
        Self::asking(&from_text("localhost"), rtype::A)
    }

    /// For a server of the names under a suffix: whether it knows that zone.
    pub fn to_a_server_of(suffix: &Suffix) -> Self {
        Self::asking(&from_text(suffix.as_str()), rtype::SOA)
    }

    fn asking(name: &[u8], qtype: u16) -> Self {
        Self([name, &qtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat().into())
    }

    /// Has a server answer, within so long, and tells how long that took. A connection that this opens is kept, for queries.
    pub async fn put_to(&self, server: &Server, within: Duration) -> Result<Duration, Unproved> {
        let question = Question::starting(&self.0).ok_or(Unproved::Failed(Cause::QueryNotCarried))?;
        let began = Instant::now();
        let asked = Asked { id: 0, flags: flag::RD, edns: None };
        let query = Query { asked, question, until: began + within };
        let bounds = TtlBounds { min: 0, max: u32::MAX };
        let answering = server.panics.contain_task("proof", server.resolve(query, Which::Any, bounds));
        let answer = answering.await.unwrap_or(Err(Cause::InternalError)).map_err(Unproved::Failed)?;
        if answer.rcode() == Rcode::REFUSED { Err(Unproved::Refused) } else { Ok(began.elapsed()) }
    }
}
