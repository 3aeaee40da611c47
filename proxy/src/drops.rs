//! What is not served, and why: one metric for whoever turns something away.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Why a datagram or a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The source is not on the access list.
    Source,
    /// There are as many TCP clients as are allowed.
    Connections,
    /// The client has as many connections as one may.
    ClientConnections,
    /// No query at all.
    NotAQuery,
    /// As many queries wait for upstreams as are allowed (answered SERVFAIL).
    Overload,
    /// As many queries of this client wait as one may (answered SERVFAIL).
    ClientOverload,
    /// The client is shut out.
    ShutOut,
    /// The client, of this machine, is slowed.
    Slowed,
    /// As much was sent to the client's network as the limit of responses allows, and it has no cookie.
    Responses,
}

/// How often what was not served.
#[derive(Debug, Clone)]
pub struct Drops {
    counters: [Counter; Dropped::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Dropped {
    const ALL: [Self; 9] = [
        Self::Source,
        Self::Connections,
        Self::ClientConnections,
        Self::NotAQuery,
        Self::Overload,
        Self::ClientOverload,
        Self::ShutOut,
        Self::Slowed,
        Self::Responses,
    ];

    /// For labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Connections => "connections",
            Self::ClientConnections => "client-connections",
            Self::NotAQuery => "not-a-query",
            Self::Overload => "overload",
            Self::ClientOverload => "client-overload",
            Self::ShutOut => "shut-out",
            Self::Slowed => "slowed",
            Self::Responses => "responses",
        }
    }
}

impl Drops {
    /// Counts from zero.
    pub fn new(registry: &mut Registry) -> Self {
        let dropped = Family::<ReasonLabel, Counter>::default();
        let counters = Dropped::ALL.map(|why| dropped.get_or_create_owned(&ReasonLabel { reason: why.as_str() }));
        registry.register("dropped", "Messages and connections not served", dropped);
        Self { counters }
    }

    /// Counts one.
    pub fn count(&self, why: Dropped) {
        self.counters[why as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_counter() {
        for (index, why) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
