//! What is counted of queries and of replies.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::proof;
use crate::wire::Rcode;

/// What is counted of queries.
pub(super) struct Metrics {
    /// Queries that came over UDP.
    pub(super) udp: Counter,
    /// Queries that came over TCP.
    pub(super) tcp: Counter,
    /// Replies, by the four low bits of the response code.
    pub(super) responses: [Counter; 16],
    pub(super) cookies: proof::Metrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RcodeLabel {
    rcode: &'static str,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let queries = Family::<ProtocolLabel, Counter>::default();
        let responses = Family::<RcodeLabel, Counter>::default();
        let rcode = |code| responses.get_or_create_owned(&RcodeLabel { rcode: Rcode(code).as_str() });
        let mut code = 0;
        let metrics = Self {
            udp: queries.get_or_create_owned(&ProtocolLabel { protocol: "udp" }),
            tcp: queries.get_or_create_owned(&ProtocolLabel { protocol: "tcp" }),
            responses: [(); 16].map(|()| {
                code += 1;
                rcode(code - 1)
            }),
            cookies: proof::Metrics::new(registry),
        };
        registry.register("queries", "Messages taken from clients", queries);
        registry.register("responses", "Replies to clients", responses);
        metrics
    }
}
