use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, ConfigError};

/// What each client may take, and what becomes of those that misbehave. Nothing here lets a process cut off its
/// neighbours: what comes from loopback is told apart by connection and port, and never shut out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Clients {
    /// What a TCP connection may take.
    pub connection: Connection,
    /// Memory for what all TCP clients are owed or have sent in part, beyond 4Ki of each.
    pub owed_in_all: ByteSize,
    /// TCP connections of one client address (IPv6: of one /64); loopback is not counted.
    pub connections: u32,
    /// Queries of one client that may wait for an answer at once: of an address (IPv6: of a /64), from loopback of a port.
    pub in_flight: u32,
    /// When a client that misbehaves is shut out, and for how long.
    pub shut_out: ShutOut,
    /// How many datagrams are answered by something larger than they are, to who did not prove its address.
    pub responses: Responses,
    /// Whether DNS cookies (RFC 7873, RFC 9018) are offered, and exempt who shows one from the limit of responses.
    pub cookies: bool,
}

/// What a TCP connection may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// A connection on which no query came, and nothing is owed, is closed after so many seconds (RFC 7766 §6.2.3).
    pub idle_seconds: u32,
    /// A query must have arrived wholly so many seconds after its first octet.
    pub query_seconds: u32,
    /// Replies must be taken within so many seconds.
    pub reply_seconds: u32,
    /// Queries in flight; the connection is not read from until there are fewer.
    pub in_flight: u32,
    /// Longest query, in octets: far more than a question with EDNS options takes.
    pub query_octets: u32,
    /// Memory for what one connection is owed or has sent in part.
    pub owed: ByteSize,
}

/// When a client that misbehaves is shut out, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ShutOut {
    /// The score from which on a client is shut out; 0: nobody ever is.
    pub score: u32,
    /// A score has halved after so many seconds.
    pub half_life_seconds: u32,
    /// For how many seconds it is shut out the first time; each time twice as long.
    pub seconds: u32,
    /// For how many seconds at most. Who behaved for so long begins anew.
    pub most_seconds: u32,
    /// Clients that are remembered; the least of them are forgotten for others.
    pub remembered: u32,
    /// Datagrams a second that are still looked at from a port of loopback whose score is that high: it is slowed, not
    /// shut out.
    pub slowed_to: u32,
    /// What each kind of misbehaviour adds to the score.
    pub weights: Weights,
}

/// What each kind of misbehaviour adds to a client's score; 0: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Weights {
    /// Something on a connection that is no query.
    pub malformed: u32,
    /// A datagram that is no query.
    pub datagram: u32,
    /// A query that did not arrive in time, or replies that were not taken.
    pub slow: u32,
    /// A connection on which nothing was ever asked.
    pub unused: u32,
    /// More connections, queries or octets than a client's share.
    pub share: u32,
}

/// How many datagrams are answered by something larger than they are, to who did not prove its address by a DNS cookie.
/// Loopback is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Responses {
    /// Responses a second to one IPv4 /24 or IPv6 /56; 0: no limit.
    pub per_second: u32,
    /// Responses that may come at once before that rate holds.
    pub burst: u32,
    /// Responses a second to all networks together; addresses from which a connection came within the last hour are not
    /// counted. As many may come at once. 0: no limit.
    pub per_second_in_all: u32,
    /// Beyond a limit every so manieth query is answered by an empty, truncated reply, so that a true client asks over
    /// TCP; the others are dropped. A network that is a little beyond its own gets one for each. 0: all are dropped.
    pub slip: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            owed_in_all: ByteSize::from_bytes(4 << 20),
            connections: 256,
            in_flight: 1_024,
            shut_out: ShutOut::default(),
            responses: Responses::default(),
            cookies: true,
        }
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            idle_seconds: 30,
            query_seconds: 5,
            reply_seconds: 10,
            in_flight: 256,
            query_octets: 4_096,
            owed: ByteSize::from_bytes(256 << 10),
        }
    }
}

impl Default for ShutOut {
    fn default() -> Self {
        Self {
            score: 100,
            half_life_seconds: 60,
            seconds: 10,
            most_seconds: 3_600,
            remembered: 4_096,
            slowed_to: 20,
            weights: Weights::default(),
        }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self { malformed: 10, datagram: 1, slow: 20, unused: 2, share: 5 }
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self { per_second: 500, burst: 1_000, per_second_in_all: 5_000, slip: 2 }
    }
}

impl Clients {
    /// Bounds of the numbers.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        const DAY: u32 = 86_400;
        let Self { connection, shut_out, responses, .. } = self;
        for (path, value, least, most) in [
            ("connections", self.connections, 1, 65_536),
            ("inFlight", self.in_flight, 1, 65_536),
            ("connection.idleSeconds", connection.idle_seconds, 1, DAY),
            ("connection.querySeconds", connection.query_seconds, 1, 3_600),
            ("connection.replySeconds", connection.reply_seconds, 1, 3_600),
            ("connection.inFlight", connection.in_flight, 1, 65_536),
            ("connection.queryOctets", connection.query_octets, 512, 65_535),
            ("shutOut.score", shut_out.score, 0, 1_000_000),
            ("shutOut.halfLifeSeconds", shut_out.half_life_seconds, 1, DAY),
            ("shutOut.seconds", shut_out.seconds, 1, DAY),
            ("shutOut.mostSeconds", shut_out.most_seconds, shut_out.seconds, 7 * DAY),
            ("shutOut.remembered", shut_out.remembered, 16, 1 << 20),
            ("shutOut.slowedTo", shut_out.slowed_to, 1, 1_000_000),
            ("responses.perSecond", responses.per_second, 0, 1_000_000),
            ("responses.burst", responses.burst, 1, 1_000_000),
            ("responses.perSecondInAll", responses.per_second_in_all, 0, 1_000_000),
            ("responses.slip", responses.slip, 0, 100),
        ] {
            crate::config::in_range(&format!("clients.{path}"), value, least, most)?;
        }
        // An answer of 64Ki must fit, or nobody could ever be told it.
        for (path, size, most) in
            [("owedInAll", self.owed_in_all, 1 << 30), ("connection.owed", connection.owed, 1 << 26)]
        {
            if !(1 << 17..=most).contains(&size.bytes()) {
                return Err(ConfigError::at(
                    format!("clients.{path}"),
                    format!("{size} is out of range: write a size from 128Ki to {}", ByteSize::from_bytes(most)),
                ));
            }
        }
        Ok(())
    }

    /// Whether nothing differs from the defaults.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
