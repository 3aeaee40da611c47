//! Which upstream group a name goes to: the longest suffix that covers it, else the default group.

use std::collections::HashMap;

use dot_proxy_config::Suffix;

use crate::wire::name::{Name, from_text};

/// An upstream group's place in the list of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupIndex(pub usize);

/// The group that answers what no route covers.
pub const DEFAULT: GroupIndex = GroupIndex(0);

/// The rule that a name which a route covers is asked of no other servers, whatever becomes of the route's.
pub const ROUTE_UNAVAILABLE: &str = "route-unavailable";

/// Suffixes and their groups.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Router {
    routes: HashMap<Box<[u8]>, GroupIndex>,
}

impl Router {
    /// Sends names under a suffix to a group.
    pub fn add(&mut self, suffix: &Suffix, group: GroupIndex) {
        self.routes.insert(from_text(suffix.as_str()).into(), group);
    }

    /// The group for a name in lower case.
    pub fn route(&self, lower: Name<'_>) -> GroupIndex {
        if self.routes.is_empty() {
            return DEFAULT;
        }
        lower.and_ancestors().find_map(|name| self.routes.get(name.as_bytes()).copied()).unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_suffix_wins_and_what_none_covers_goes_to_the_default() {
        let mut router = Router::default();
        router.add(&"cluster.local".parse().unwrap(), GroupIndex(1));
        router.add(&"special.cluster.local".parse().unwrap(), GroupIndex(2));
        let route = |name: &str| router.route(Name::checked(&from_text(name))).0;
        assert_eq!(route("web.demo.svc.cluster.local"), 1);
        assert_eq!(route("cluster.local"), 1);
        assert_eq!(route("a.special.cluster.local"), 2);
        assert_eq!(route("mycluster.local"), 0);
        assert_eq!(route("www.example.com"), 0);
        assert_eq!(route(""), 0);
    }
}
