//! What `inject::resources` decides, as CEL, but for LimitRanges, which no policy can read.

use super::super::resources::{KINDS, Kind};
use super::Variable;

/// `cpu`, `memory` and `ephemeral-storage`: of each the limit and the request as strings, where `''` is none; then all of them.
pub(super) fn variables() -> Vec<Variable> {
    let mut all: Vec<Variable> = vec![
        (
            "hasPodBudget",
            "has(object.spec.resources) && (object.spec.resources.?requests.orValue({}).size() > 0 || \
             object.spec.resources.?limits.orValue({}).size() > 0)"
                .to_owned(),
        ),
        (
            "isGuaranteed",
            "!variables.hasPodBudget && variables.theirs.all(c, ['cpu', 'memory'].all(r, \
             has(c.resources) && has(c.resources.limits) && r in c.resources.limits && \
             quantity(string(c.resources.limits[r])).isGreaterThan(quantity('0')) && \
             (!has(c.resources.requests) || !(r in c.resources.requests) || \
             quantity(string(c.resources.requests[r])).compareTo(quantity(string(c.resources.limits[r]))) == 0)))"
                .to_owned(),
        ),
    ];
    let names = [("cpuLimit", "cpuRequest"), ("memoryLimit", "memoryRequest"), ("storageLimit", "storageRequest")];
    for (kind, (limit, request)) in KINDS.iter().zip(names) {
        all.push((limit, limit_of(kind)));
        all.push((request, request_of(kind, limit)));
    }
    let entries = |names: [&str; 3]| {
        let entry = |(kind, name): (&Kind, &str)| {
            format!("?'{}': variables.{name} == '' ? optional.none() : optional.of(variables.{name})", kind.name())
        };
        KINDS.iter().zip(names).map(entry).collect::<Vec<_>>().join(", ")
    };
    all.push(("limits", format!("{{{}}}", entries(names.map(|(limit, _)| limit)))));
    all.push(("requests", format!("{{{}}}", entries(names.map(|(_, request)| request)))));
    all
}

fn of_profile(part: &str, name: &str) -> String {
    format!("params.spec.?resources.?{part}[?'{name}']")
}

/// The larger of an optional quantity and one.
fn at_least(optional: &str, least: &str) -> String {
    format!(
        "({optional}.hasValue() && quantity(string({optional}.value())).isGreaterThan(quantity('{least}')) ? \
         string({optional}.value()) : '{least}')"
    )
}

fn all_have(condition: &str) -> String {
    format!("variables.theirs.all(c, {condition})")
}

fn limit_of(kind: &Kind) -> String {
    let (name, least) = (kind.name(), kind.default_limit());
    let (limit, request) = (of_profile("limits", name), of_profile("requests", name));
    let limited = all_have(&format!("has(c.resources) && has(c.resources.limits) && '{name}' in c.resources.limits"));
    let guaranteed = if kind.counts_for_qos() { "variables.isGuaranteed || " } else { "" };
    format!(
        "variables.hasPodBudget ? '' : {limit}.hasValue() ? string({limit}.value()) : {guaranteed}{limited} ? {} : ''",
        at_least(&request, &least)
    )
}

fn request_of(kind: &Kind, limit: &str) -> String {
    let (name, request) = (kind.name(), of_profile("requests", kind.name()));
    let requested = all_have(&format!(
        "has(c.resources) && (has(c.resources.requests) && '{name}' in c.resources.requests || \
         has(c.resources.limits) && '{name}' in c.resources.limits)"
    ));
    let guaranteed =
        if kind.counts_for_qos() { format!("variables.isGuaranteed ? variables.{limit} : ") } else { String::new() };
    let wished = format!(
        "{request}.hasValue() ? string({request}.value()) : {requested} ? '{}' : variables.{limit}",
        kind.default_request()
    );
    format!(
        "variables.hasPodBudget ? '' : {guaranteed}[{wished}].map(r, variables.{limit} != '' && r != '' && \
         quantity(r).isGreaterThan(quantity(variables.{limit})) ? variables.{limit} : r)[0]"
    )
}
