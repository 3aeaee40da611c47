//! Whatever valid pod goes in.

use dot_injector::inject::{self, Decision, Subject, Verdict};
use dot_injector::limits::ContainerLimits;
use proptest::prelude::*;
use serde_json::Value;

use crate::laws::broken;
use crate::shape::{NAMESPACE, surroundings};
use crate::valid_pods::valid_pod;

/// What is decided about it, and what it is then. `own` is what the profile says of pods with nameservers of their own.
fn injected(pod: &Value, namespace_asks: bool, own: &str) -> (Verdict, Value) {
    let surroundings = surroundings(&format!("profile: {{ownNameservers: {own}}}"));
    let (limits, labels) = (ContainerLimits::default(), std::collections::BTreeMap::new());
    let subject = Subject { pod, namespace: NAMESPACE, namespace_asks, namespace_labels: &labels, limits: &limits };
    let verdict = inject::decide(subject, &surroundings.settings, &surroundings.cluster, &surroundings.profiles);
    let after = inject::patched(&verdict.decision, pod);
    (verdict, after)
}

fn policy() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["refuse", "replace", "keep-for-searches"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_but_ours_changes_in_any_valid_pod(pod in valid_pod(), asks: bool, own in policy()) {
        let (verdict, after) = injected(&pod, asks, own);
        if matches!(verdict.decision, Decision::Inject(_)) {
            let broken = broken(&pod, &after);
            prop_assert!(broken.is_none(), "{}", broken.unwrap());
        } else if pod["metadata"]["annotations"].get("dot-sidecar.io/status").is_none() {
            prop_assert_eq!(&after, &pod);
        }
    }

    #[test]
    fn any_valid_pod_injected_twice_is_what_it_is_injected_once(pod in valid_pod(), asks: bool, own in policy()) {
        let (first, once) = injected(&pod, asks, own);
        let (second, twice) = injected(&once, asks, own);
        prop_assert_eq!(first.decision, second.decision);
        prop_assert_eq!(&inject::patch(&once, twice).0, &[]);
    }

    #[test]
    fn no_valid_pod_is_malformed_or_refused_for_what_its_author_cannot_help(pod in valid_pod(), asks: bool) {
        let reason = injected(&pod, asks, "refuse").0.decision.reason();
        prop_assert!(!matches!(reason, "malformed" | "config-refused" | "config-too-large" | "profile-unusable"), "{}", reason);
    }
}
