//! Whether a datagram came from the address that it names: what its cookie is worth, and what is answered without one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{Resolver, Sender, Step, Trust};
use crate::clients::cookies::Worth;
use crate::clients::responses::Grant;
use crate::drops::Dropped;
use crate::wire::request::{Asked, Edns, Question};
use crate::wire::{Rcode, reply};

/// What is counted of cookies.
pub(super) struct Metrics {
    valid: Counter,
    asked: Counter,
    invalid: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorthLabel {
    cookie: &'static str,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let cookies = Family::<WorthLabel, Counter>::default();
        let counter = |cookie| cookies.get_or_create_owned(&WorthLabel { cookie });
        let metrics = Self { valid: counter("valid"), asked: counter("asked-for"), invalid: counter("invalid") };
        registry.register("client_cookies", "Queries with a DNS cookie, by what it was worth", cookies);
        metrics
    }
}

impl Resolver {
    /// Puts the cookie that the reply is to have in the place of the query's; tells what that one was worth.
    #[inline]
    pub(super) fn judge_cookie(&self, asked: &mut Asked, sender: Sender, now: Instant) -> Option<Worth> {
        let edns = asked.edns.as_mut().filter(|edns| edns.cookie.is_some())?;
        self.judge(edns, sender, now)
    }

    #[cold]
    fn judge(&self, edns: &mut Edns, sender: Sender, now: Instant) -> Option<Worth> {
        let shown = edns.cookie.take()?;
        let (worth, given) = self.cookies.as_ref()?.judge(shown, sender.address.ip(), now);
        edns.cookie = Some(given);
        match worth {
            Worth::Valid => &self.metrics.cookies.valid,
            Worth::Asked => &self.metrics.cookies.asked,
            Worth::Invalid => &self.metrics.cookies.invalid,
        }
        .inc();
        Some(worth)
    }

    /// What a message is granted whose cookie is worth this.
    #[inline]
    pub(super) fn grant(&self, sender: Sender, worth: Option<Worth>, now: Instant) -> Grant {
        match sender.trust {
            Trust::Usual => Grant::Response,
            Trust::Unproven { cookie_required } => self.grant_unproven(sender, cookie_required, worth, now),
        }
    }

    #[cold]
    fn grant_unproven(&self, sender: Sender, cookie_required: bool, worth: Option<Worth>, now: Instant) -> Grant {
        let granted = match worth {
            Some(Worth::Valid) => Grant::Response,
            _ if cookie_required => self.responses.beyond(),
            _ => self.responses.take(sender.address.ip(), now),
        };
        if granted != Grant::Response {
            self.drops.count(Dropped::Responses);
        }
        granted
    }

    /// What a query gets that would have needed a cookie: a fresh one to come again with (RFC 7873 §5.2.3, §5.2.4), or TC to
    /// come again over TCP. Whichever it is, it is no larger than the query of so many octets.
    #[cold]
    pub(super) fn tell_unproven(&self, asked: Asked, question: Question<'_>, octets: usize, out: &mut Vec<u8>) -> Step {
        let start = out.len();
        if asked.edns.is_some_and(|edns| edns.cookie.is_some()) {
            reply::failure(out, asked, question, Rcode::BADCOOKIE, None);
        }
        if out.len() == start || out.len() - start > octets {
            out.truncate(start);
            reply::truncated(out, asked, question);
        }
        Step::Reply
    }
}
