//! The sidecar's requests and limits: what the profile says, made to fit the pod and its namespace.
//!
//! - The author's annotations come before the profile's values.
//! - A Guaranteed pod stays Guaranteed: requests are made equal to limits.
//! - Where every container of the pod has a request or a limit for a resource, so has ours. A ResourceQuota on, say,
//!   `limits.cpu` refuses pods of which one container has none, so this honours quotas without watching them.
//! - Pod-level resources are a budget that its author sized: ours takes no share of its own, since the API refuses a pod
//!   whose containers together request more than the pod does.
//! - The namespace's LimitRanges are honoured last: what breaks them would be refused.

use serde_json::{Map, Value, json};

use crate::annotations::Overrides;
use crate::limits::{Bounds, ContainerLimits};
use crate::profile;
use crate::quantity::Quantity;

use super::pod::{Container, Spec};
use super::refusal::Refusal;

/// How the pod's resources are accounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    /// `spec.resources` (KEP-2837): all containers share one budget.
    OfThePod,
    /// The QoS class Guaranteed: every container's limits are its requests.
    Guaranteed,
    /// Each container has its own, or none.
    OfContainers,
}

/// A resource of which the sidecar needs some.
pub(super) struct Kind {
    name: &'static str,
    /// What it requests where a request is demanded and nobody says how much.
    request: Quantity,
    /// What it may use where a limit is demanded and nobody says how much.
    limit: Quantity,
    /// The least difference between two amounts.
    step: Quantity,
}

/// What the sidecar requests and may use of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    request: Option<Quantity>,
    limit: Option<Quantity>,
}

/// A limit on CPU is ten times what is requested, since every burst above it is throttled. Storage is for the log, which
/// the node keeps and rotates.
pub(super) const KINDS: [Kind; 3] = [
    Kind {
        name: "cpu",
        request: Quantity::from_millis(10),
        limit: Quantity::from_millis(100),
        step: Quantity::from_millis(1),
    },
    Kind {
        name: "memory",
        request: Quantity::from_mebibytes(32),
        limit: Quantity::from_mebibytes(64),
        step: Quantity::from_millis(1000),
    },
    Kind {
        name: "ephemeral-storage",
        request: Quantity::ZERO,
        limit: Quantity::from_mebibytes(64),
        step: Quantity::from_millis(1000),
    },
];

/// The sidecar's `resources`.
pub(super) fn for_sidecar(
    spec: &Spec,
    profile: &profile::Resources,
    overrides: &Overrides,
    limits: &ContainerLimits,
    warnings: &mut Vec<String>,
) -> Result<Value, Refusal> {
    let budget = Budget::of(spec);
    let mut requests = Map::new();
    let mut maxima = Map::new();
    for kind in &KINDS {
        let asked = kind.asked_for(overrides);
        let wished = match budget {
            Budget::OfThePod => asked,
            Budget::Guaranteed if kind.counts_for_qos() => kind.guaranteed(asked, profile),
            Budget::Guaranteed | Budget::OfContainers => kind.wished(asked, profile, spec),
        };
        kind.check(wished)?;
        let fitted = kind.fitted(wished, limits.of(kind.name), budget);
        kind.warn_if_changed(asked, wished, fitted, warnings);
        requests.extend(fitted.request.map(|request| (kind.name.to_owned(), json!(request))));
        maxima.extend(fitted.limit.map(|limit| (kind.name.to_owned(), json!(limit))));
    }
    let parts = [("requests", requests), ("limits", maxima)];
    let present = parts.into_iter().filter(|(_, amounts)| !amounts.is_empty());
    Ok(Value::Object(present.map(|(name, amounts)| (name.to_owned(), Value::Object(amounts))).collect()))
}

impl Budget {
    fn of(spec: &Spec) -> Self {
        let guaranteed = |container: &Container| {
            ["cpu", "memory"].iter().all(|resource| {
                let limit = container.resources.limits.get(*resource);
                // A request that is left out is the limit.
                let request = container.resources.requests.get(*resource).or(limit);
                limit.is_some_and(|limit| *limit > Quantity::ZERO) && request == limit
            })
        };
        match &spec.resources {
            Some(budget) if !(budget.requests.is_empty() && budget.limits.is_empty()) => Self::OfThePod,
            _ if every_container(spec, guaranteed) => Self::Guaranteed,
            _ => Self::OfContainers,
        }
    }
}

impl Kind {
    /// As the API calls it.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// What it may use where a limit is demanded and nobody says how much.
    pub(super) fn default_limit(&self) -> String {
        self.limit.to_string()
    }

    /// What it requests where a request is demanded and nobody says how much.
    pub(super) fn default_request(&self) -> String {
        self.request.to_string()
    }

    /// Guaranteed is about these two alone.
    pub(super) fn counts_for_qos(&self) -> bool {
        matches!(self.name, "cpu" | "memory")
    }

    fn asked_for(&self, overrides: &Overrides) -> Share {
        match self.name {
            "cpu" => Share { request: overrides.cpu_request, limit: overrides.cpu_limit },
            "memory" => Share { request: overrides.memory_request, limit: overrides.memory_limit },
            _ => Share { request: None, limit: None },
        }
    }

    /// In a Guaranteed pod: one amount for both.
    fn guaranteed(&self, asked: Share, profile: &profile::Resources) -> Share {
        let of_profile = || profile.limits.of(self.name);
        let at_least = || profile.requests.of(self.name).map_or(self.limit, |request| self.limit.max(request));
        let amount = asked.limit.or(asked.request).or_else(of_profile).unwrap_or_else(at_least);
        Share { request: Some(amount), limit: Some(amount) }
    }

    /// Where each container has its own.
    fn wished(&self, asked: Share, profile: &profile::Resources, spec: &Spec) -> Share {
        let all_limited = every_container(spec, |container| container.resources.limits.contains_key(self.name));
        let all_requested = every_container(spec, |container| {
            container.resources.requests.contains_key(self.name) || container.resources.limits.contains_key(self.name)
        });
        let of_profile = profile.requests.of(self.name);
        let limit = asked
            .limit
            .or_else(|| profile.limits.of(self.name))
            .or_else(|| all_limited.then(|| self.limit.max(asked.request.or(of_profile).unwrap_or(self.request))));
        let fallback = of_profile.or_else(|| all_requested.then_some(self.request));
        let request =
            asked.request.or_else(|| fallback.map(|request| limit.map_or(request, |limit| request.min(limit))));
        Share { request, limit }
    }

    /// The API refuses a request above its limit; only the author's own annotations can make one.
    fn check(&self, share: Share) -> Result<(), Refusal> {
        match (share.request, share.limit) {
            (Some(request), Some(limit)) if request > limit => Err(Refusal::RequestAboveLimit {
                resource: self.name,
                request: request.to_string(),
                limit: limit.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Makes a share such as the namespace's LimitRanges let pass.
    fn fitted(&self, share: Share, bounds: Bounds, budget: Budget) -> Share {
        // The defaults are for containers with a budget of their own.
        let defaults_apply = budget != Budget::OfThePod;
        let demands_limit =
            bounds.max.is_some() || bounds.max_ratio.is_some() || (defaults_apply && bounds.default_limit.is_some());
        let demands_request = demands_limit || bounds.min.is_some();
        let default_limit = match (bounds.default_limit, bounds.max_ratio) {
            // A generous default would drag the request up with it.
            (Some(default), Some(_)) => default.min(self.limit),
            (Some(default), None) => default,
            (None, _) => self.limit,
        };
        let inside = |amount: Quantity| {
            let raised = bounds.min.map_or(amount, |min| amount.max(min));
            bounds.max.map_or(raised, |max| raised.min(max))
        };
        let limit =
            share.limit.or_else(|| demands_limit.then(|| default_limit.max(share.request.unwrap_or(Quantity::ZERO))));
        let limit = limit.map(inside);
        let fallback = || demands_request.then(|| bounds.default_request.unwrap_or(self.request));
        // The API makes a request that is left out equal to the limit: what it will say is said here.
        let request = share.request.or_else(fallback).map(inside).or(limit);
        let request = request.map(|request| self.within_ratio(request, limit, bounds.max_ratio));
        Share { request, limit }
    }

    /// The request that goes with a limit: not above it, nor so far below it that the ratio is exceeded.
    fn within_ratio(&self, request: Quantity, limit: Option<Quantity>, max_ratio: Option<Quantity>) -> Quantity {
        let Some(limit) = limit else { return request };
        let least = max_ratio.map_or(request, |ratio| limit.divided_by(ratio, self.step));
        request.max(least).min(limit)
    }

    fn warn_if_changed(&self, asked: Share, wished: Share, fitted: Share, warnings: &mut Vec<String>) {
        let mut warn = |what: &str, from: Option<Quantity>, to: Option<Quantity>| {
            if let (Some(from), Some(to)) = (from, to) {
                let name = self.name;
                warnings.push(format!(
                    "the sidecar's {name} {what} is {to} instead of {from}: a LimitRange of the namespace demands it"
                ));
            }
        };
        if fitted.limit < wished.limit || (asked.limit.is_some() && fitted.limit != wished.limit) {
            warn("limit", wished.limit, fitted.limit);
        }
        if asked.request.is_some() && fitted.request != wished.request {
            warn("request", wished.request, fitted.request);
        }
    }
}

fn every_container(spec: &Spec, holds: impl Fn(&Container) -> bool) -> bool {
    !spec.containers.is_empty() && spec.all_containers().all(holds)
}
