//! Where names go: the part of a resolver that a changed configuration exchanges, as a whole and at once.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::{Policy, Verdict};
use crate::router::{GroupIndex, Router};
use crate::upstream::group::Group;
use crate::wire::name::{LowerName, Name};
use crate::wire::request::Question;

/// Which names leave, and to whom.
pub struct Routing {
    /// Which questions leave.
    pub policy: Arc<Policy>,
    /// Which group answers which names.
    pub router: Arc<Router>,
    /// The groups; the first answers what no route covers.
    pub groups: Vec<Arc<Group>>,
    /// How long a query may take.
    pub deadline: Duration,
}

/// A group that is asked for a name.
#[derive(Clone)]
pub struct Destination {
    /// Its place among the groups.
    pub index: GroupIndex,
    /// The group.
    pub group: Arc<Group>,
    /// How long the query may take.
    pub deadline: Duration,
}

impl Routing {
    /// Where a name in lower case goes.
    pub(super) fn destination(&self, lower: Name<'_>) -> Destination {
        let index = self.router.route(lower);
        Destination { index, group: Arc::clone(&self.groups[index.0]), deadline: self.deadline }
    }

    /// Where a question goes; nowhere if it is not forwarded.
    pub(super) fn forwarded(&self, question: Question<'_>) -> Option<Destination> {
        let lower = LowerName::of(question.name());
        let leaves = self.policy.judge(question, lower.name()) == Verdict::Forward;
        leaves.then(|| self.destination(lower.name()))
    }

    /// Whether all that was answered under this routing is answered so under another.
    pub(super) fn answers_like(&self, other: &Self) -> bool {
        let lineages = |routing: &Self| routing.groups.iter().map(|group| group.lineage()).collect::<Vec<_>>();
        self.policy == other.policy && self.router == other.router && lineages(self) == lineages(other)
    }

    /// Whether what was answered for a name under this routing is answered so under another.
    pub(super) fn answers_name_like(&self, other: &Self, name: Name<'_>) -> bool {
        let lower = LowerName::of(name);
        let lineage = |routing: &Self| routing.groups[routing.router.route(lower.name()).0].lineage();
        self.policy == other.policy && lineage(self) == lineage(other)
    }
}
