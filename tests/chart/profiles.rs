//! What a real API server makes of ProxyProfiles: it refuses what the proxy would refuse, in the same words, shows defaults, and
//! explains every field.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dot_proxy_config::Server;
use serde_json::{Value, json};

use crate::gate::ControlPlane;
use crate::{ROOT, yaml};

fn profile(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": {"name": name}, "spec": spec})
}

/// An API server that knows the resource.
fn with_definition() -> ControlPlane {
    let control_plane = ControlPlane::start("profiles");
    let path = format!("{ROOT}/charts/dot-sidecar/files/proxyprofiles.yaml");
    let definition = yaml(&std::fs::read_to_string(path).unwrap());
    let said = control_plane.kubectl("apply --server-side --validate=strict -f -", &definition);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !control_plane.kubectl("get proxyprofiles", &Value::Null).stderr.contains("No resources found") {
        assert!(Instant::now() < deadline, "the definition does not take effect");
        sleep(Duration::from_millis(100));
    }
    control_plane
}

#[test]
fn an_api_server_refuses_what_the_proxy_would_and_says_so_in_its_words() {
    let control_plane = with_definition();
    let table = std::fs::read_to_string(format!("{ROOT}/injector/src/profile/refused.yaml")).unwrap();
    let cases = yaml(&table).as_array().unwrap().clone();
    let named: Vec<Value> =
        cases.iter().enumerate().map(|(number, case)| profile(&format!("case-{number}"), &case["spec"])).collect();
    // Unknown fields of a list are found by kubectl, and the whole list is refused.
    let is_strict = |number: usize| cases[number]["strict"] == json!(true);
    let others: Vec<&Value> =
        named.iter().enumerate().filter(|(at, _)| !is_strict(*at)).map(|(_, case)| case).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": others});
    let said = control_plane.kubectl("create --dry-run=server -o name -f -", &list);
    for (number, case) in cases.iter().enumerate() {
        let (path, words) = (case["path"].as_str().unwrap(), case["words"].as_str().unwrap());
        let created = said.stdout.lines().any(|line| line.ends_with(&format!("/case-{number}")));
        if case["api"] == json!(false) {
            assert!(created, "{case} is refused: the table says that the API server cannot know");
        } else if is_strict(number) {
            let said = control_plane.kubectl("create --dry-run=server -f -", &named[number]);
            assert!(said.stderr.contains(&format!("{words} \"spec.{path}\"")), "{case}: {}", said.stderr);
        } else {
            let begin = said.stderr.find(&format!("\"case-{number}\" is invalid"));
            let begin = begin.unwrap_or_else(|| panic!("{case} is taken:\n{}", said.stderr));
            let told = said.stderr[begin..].split("The ProxyProfile").next().unwrap();
            assert!(told.contains(&format!("spec.{path}")) && told.contains(words), "{case}: {told}");
        }
    }
    every_server_that_the_proxy_takes_is_taken(&control_plane);
    defaults_are_visible_and_every_field_is_explained(&control_plane);
}

/// Servers of every form, and each of them with a character changed, left out or put in.
fn servers() -> BTreeSet<String> {
    let whole = [
        "cloudflare",
        "tls://192.0.2.53#dns.example",
        "tls://1.1.1.1:0853#xn--bcher-kva.example.",
        "tls://[192.0.2.53]#192.0.2.53",
        "tls://2001:db8::1#2001:db8::1",
        "tls://[64:ff9b::192.0.2.1]:8853#a_b.example",
        "https://192.0.2.53#dns.example",
        "https://[2001:db8::1]:8443/q/%20/x#dns.example",
        "quic://255.249.100.9:65535#dns.example",
        "udp://10.96.0.10",
        "udp://[fd00::a]:53",
    ];
    let mut servers = BTreeSet::new();
    for server in whole {
        servers.insert(server.to_owned());
        for at in 0..server.len() {
            let (before, behind) = server.split_at(at);
            servers.insert(format!("{before}{}", &behind[1..]));
            for other in ["#", ":", "/", "[", "0", "9", "f", "-", " "] {
                servers.insert(format!("{before}{other}{}", &behind[1..]));
            }
        }
    }
    servers
}

fn every_server_that_the_proxy_takes_is_taken(control_plane: &ControlPlane) {
    let servers = servers();
    let good: Vec<&String> = servers.iter().filter(|server| server.parse::<Server>().is_ok()).collect();
    assert!(good.len() > 100 && servers.len() > 3 * good.len(), "{} of {}", good.len(), servers.len());
    // As many as a route may have, and as many routes as a profile.
    for chunk in good.chunks(12 * 32) {
        let routes: Vec<Value> = chunk
            .chunks(12)
            .enumerate()
            .map(|(number, servers)| json!({"suffixes": [format!("r{number}.example")], "servers": servers}))
            .collect();
        let said = control_plane.kubectl("create --dry-run=server -f -", &profile("all", &json!({"routes": routes})));
        assert!(said.stderr.is_empty(), "{}", said.stderr);
    }
    // And of what the proxy refuses, most is refused: all but the fine points of IPv6, names and paths.
    let bad = servers.iter().filter(|server| server.parse::<Server>().is_err() && !server.contains(['[', '%']));
    let bad: Vec<Value> = bad
        .enumerate()
        .map(|(number, server)| profile(&format!("bad-{number}"), &json!({"upstream": {"servers": [server]}})))
        .collect();
    let sample: Vec<&Value> = bad.iter().step_by(15).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": sample});
    let said = control_plane.kubectl("create --dry-run=server -o name -f -", &list);
    let taken = said.stdout.lines().count();
    assert!(taken * 6 < sample.len(), "{taken} of {} are taken:\n{}", sample.len(), said.stdout);
}

fn defaults_are_visible_and_every_field_is_explained(control_plane: &ControlPlane) {
    let said = control_plane.kubectl("create -f -", &profile("default", &json!({"cache": {"prefetch": false}})));
    assert!(said.stdout.contains("created"), "{}", said.stderr);
    let stored = control_plane.kubectl("get proxyprofile default -o jsonpath={.spec}", &Value::Null).stdout;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["upstream"]["servers"], json!(["cloudflare"]));
    assert_eq!((&stored["cache"]["prefetch"], &stored["cache"]["staleSeconds"]), (&json!(false), &json!(86_400)));
    assert_eq!(stored["resources"]["limits"], json!({"memory": "64Mi"}));
    assert!(stored["image"].is_null() && stored["namespaces"].is_null());
    let table = control_plane.kubectl("get pxp", &Value::Null).stdout;
    assert!(table.starts_with("NAME      UPSTREAMS        READY   PROPAGATED   PODS   UPDATED   AGE\n"), "{table}");
    // The API server publishes descriptions a while after it has begun to take the resource.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let explained = control_plane.kubectl("explain proxyprofile.spec", &Value::Null);
        if explained.stdout.contains("ownNameservers") && explained.stdout.contains("keep-for-searches") {
            return;
        }
        assert!(Instant::now() < deadline, "{}{}", explained.stdout, explained.stderr);
        sleep(Duration::from_millis(200));
    }
}
