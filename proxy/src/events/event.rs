//! What can happen that a security team wants to know.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::upstream::cause::Cause;

/// Something that happened. Words (`how`, `why`, `rule` …) are short, lower-case, hyphenated and from a fixed list, like
/// labels of metrics: they become fields that rules of a SIEM are written for, and events are summed by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client sent or did what it must not, once.
    ClientMisbehaved {
        /// Who; over UDP the address may be forged.
        client: SocketAddr,
        /// What it came by.
        transport: Transport,
        /// What it did, in the word of the metric.
        how: &'static str,
    },
    /// A client is not served for a while.
    ClientShutOut {
        /// Its address; of IPv6 the first of its /64.
        client: IpAddr,
        /// What it did last.
        how: &'static str,
        /// For how long.
        duration: Duration,
        /// How often it has been shut out, this time included.
        times: u32,
    },
    /// A port of loopback is served little for a while: what is of this machine is never shut out.
    ClientSlowed {
        /// Its address.
        client: IpAddr,
        /// What it did last.
        how: &'static str,
        /// For how long.
        duration: Duration,
        /// How often it has been slowed, this time included.
        times: u32,
    },
    /// A client that was shut out or slowed is served again.
    ClientReadmitted {
        /// Its address; of IPv6 the first of its /64.
        client: IpAddr,
    },
    /// A client's connection was reset.
    ConnectionReset {
        /// Who.
        client: SocketAddr,
        /// Why, in the word of the metric.
        why: &'static str,
    },
    /// A source that is not on the access list was turned away.
    SourceRefused {
        /// Who; over UDP the address may be forged.
        client: SocketAddr,
        /// What it came by.
        transport: Transport,
    },
    /// The leak guard: a name was kept from a resolver that has no business with it.
    NameWithheld {
        /// Who asked, where it is known.
        client: Option<IpAddr>,
        /// Which rule kept it.
        rule: &'static str,
        /// The name in presentation format; told only where the configuration says so.
        name: String,
        /// The type asked for.
        qtype: u16,
    },
    /// An upstream server did not prove who it is.
    CertificateRefused {
        /// The server, as its URL.
        server: Arc<str>,
        /// Its group.
        group: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// An answer was not taken: it could not be read, or did not belong to the question.
    AnswerRefused {
        /// The server, as its URL.
        server: Arc<str>,
        /// Its group.
        group: Arc<str>,
        /// Why, in one word.
        why: &'static str,
    },
    /// A configuration was not taken.
    ConfigurationRefused {
        /// The path of the field, or empty.
        field: String,
        /// Why, with the remedy.
        reason: String,
    },
    /// The work for one query ended in a panic: a defect of this program, perhaps provoked.
    QueryPanicked {
        /// Where: `listener`, `lookup` …
        place: &'static str,
    },
    /// The kernel lacks a means by which the process would have confined itself.
    ConfinementMissing {
        /// Which: `landlock`, `seccomp` …
        means: &'static str,
    },
    /// A destination of events did not take them in time; nobody but the destination itself says so.
    EventsDropped {
        /// Which, in the word of the metric.
        destination: &'static str,
    },
}

/// How a client reached the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In datagrams.
    Udp,
    /// On a connection.
    Tcp,
}

/// What tells an event that repeats another from one that does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    action: &'static str,
    word: &'static str,
    subject: Subject,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    /// Nobody in particular, or one of too many clients.
    Any,
    Client(IpAddr),
    Server(Arc<str>),
}

impl Transport {
    /// The word, as in `network.transport`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl Event {
    /// The word for what happened, `event.action`.
    pub fn action(&self) -> &'static str {
        match self {
            Self::ClientMisbehaved { .. } => "client-misbehaved",
            Self::ClientShutOut { .. } => "client-shut-out",
            Self::ClientSlowed { .. } => "client-slowed",
            Self::ClientReadmitted { .. } => "client-readmitted",
            Self::ConnectionReset { .. } => "connection-reset",
            Self::SourceRefused { .. } => "source-refused",
            Self::NameWithheld { .. } => "name-withheld",
            Self::CertificateRefused { .. } => "certificate-refused",
            Self::AnswerRefused { .. } => "answer-refused",
            Self::ConfigurationRefused { .. } => "configuration-refused",
            Self::QueryPanicked { .. } => "query-panicked",
            Self::ConfinementMissing { .. } => "confinement-missing",
            Self::EventsDropped { .. } => "events-dropped",
        }
    }

    /// The client that it is about.
    pub(super) fn client(&self) -> Option<IpAddr> {
        match self {
            Self::ClientMisbehaved { client, .. }
            | Self::ConnectionReset { client, .. }
            | Self::SourceRefused { client, .. } => Some(client.ip()),
            Self::ClientShutOut { client, .. }
            | Self::ClientSlowed { client, .. }
            | Self::ClientReadmitted { client } => Some(*client),
            Self::NameWithheld { client, .. } => *client,
            Self::CertificateRefused { .. }
            | Self::AnswerRefused { .. }
            | Self::ConfigurationRefused { .. }
            | Self::QueryPanicked { .. }
            | Self::ConfinementMissing { .. }
            | Self::EventsDropped { .. } => None,
        }
    }

    /// The client's port, where it is known.
    pub(super) fn client_port(&self) -> Option<u16> {
        match self {
            Self::ClientMisbehaved { client, .. }
            | Self::ConnectionReset { client, .. }
            | Self::SourceRefused { client, .. } => Some(client.port()),
            _ => None,
        }
    }

    /// The word beside the action.
    fn word(&self) -> &'static str {
        match self {
            Self::ClientMisbehaved { how, .. } | Self::ClientShutOut { how, .. } | Self::ClientSlowed { how, .. } => {
                how
            }
            Self::ConnectionReset { why, .. } | Self::AnswerRefused { why, .. } => why,
            Self::SourceRefused { transport, .. } => transport.as_str(),
            Self::NameWithheld { rule, .. } => rule,
            Self::CertificateRefused { cause, .. } => cause.as_str(),
            Self::QueryPanicked { place } => place,
            Self::ConfinementMissing { means } => means,
            Self::EventsDropped { destination } => destination,
            Self::ClientReadmitted { .. } | Self::ConfigurationRefused { .. } => "",
        }
    }

    pub(super) fn key(&self) -> Key {
        let subject = match self {
            Self::CertificateRefused { server, .. } | Self::AnswerRefused { server, .. } => {
                Subject::Server(Arc::clone(server))
            }
            _ => self.client().map_or(Subject::Any, |client| Subject::Client(prefix(client))),
        };
        Key { action: self.action(), word: self.word(), subject }
    }
}

impl Key {
    /// The same for clients of whom there are too many to be told apart.
    pub(super) fn of_anybody(self) -> Self {
        Self { subject: Subject::Any, ..self }
    }

    /// Whether it is about one client among many.
    pub(super) fn is_of_a_client(&self) -> bool {
        matches!(self.subject, Subject::Client(_))
    }
}

/// What one client is: an IPv4 address, or a /64 of IPv6, which one machine has for itself.
fn prefix(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}
