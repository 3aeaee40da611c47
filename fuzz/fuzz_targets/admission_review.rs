//! An AdmissionReview: read, decided about and answered. The answer is a review that the API server can read, whose patch
//! fits the pod, and makes of it a pod that would not be changed again.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dot_injector::cluster::{ClusterDns, ClusterSettings, ResolvConf};
use dot_injector::settings::Settings;
use dot_injector::webhook::fuzzing::answer;
use json_patch::Patch;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static STAGE: LazyLock<(Settings, ClusterDns)> = LazyLock::new(|| {
    let settings = ClusterSettings {
        domain: "cluster.local".to_owned(),
        dns_addresses: vec!["10.96.0.10".parse().expect("an address")],
        ..ClusterSettings::default()
    };
    (Settings::default(), ClusterDns::new(&settings, &ResolvConf::default()).expect("all is given"))
});

fuzz_target!(|input: &[u8]| {
    let Some((namespace_asks, body)) = input.split_first() else { return };
    let namespace_asks = namespace_asks & 1 == 1;
    let (settings, cluster) = &*STAGE;
    let Ok(answered) = answer(body, namespace_asks, settings, cluster) else { return };
    let answered: Value = serde_json::from_slice(&answered).expect("the answer is JSON");
    // What is passed over is not looked at: it may be no UTF-8.
    let Ok(mut asked) = serde_json::from_slice::<Value>(body) else { return };
    let response = &answered["response"];
    assert_eq!(
        (&answered["kind"], &answered["apiVersion"]),
        (&"AdmissionReview".into(), &"admission.k8s.io/v1".into())
    );
    assert_eq!(response["uid"], asked["request"]["uid"]);
    let allowed = response["allowed"].as_bool().expect("it says so");
    assert_eq!(allowed, response.get("status").is_none());
    let Some(patch) = response.get("patch").and_then(Value::as_str) else { return };
    assert!(allowed && response["patchType"] == "JSONPatch");
    let patch: Patch = serde_json::from_slice(&STANDARD.decode(patch).expect("it is Base64")).expect("it is a patch");
    json_patch::patch(&mut asked["request"]["object"], &patch.0).expect("the patch fits the pod");
    let again = answer(&serde_json::to_vec(&asked).expect("it is JSON"), namespace_asks, settings, cluster);
    let again: Value = serde_json::from_slice(&again.expect("it is still a review")).expect("the answer is JSON");
    assert!(again["response"]["allowed"] == true && again["response"].get("patch").is_none(), "patched again: {again}");
});
