//! Programs that resolve in different ways, over UDP and TCP, through one proxy.

use dot_e2e::{Cluster, Namespace, Pod, RunningPod};

#[test]
fn dig_resolves_over_udp_and_tcp() {
    everything_resolves("dig", |pod, name, tcp| {
        let reply = pod.dig(name, if tcp { "+tcp" } else { "+notcp" });
        assert_eq!(reply.status, "NOERROR", "{}", reply.text);
        reply.answers.join(" ")
    });
}

#[test]
fn kdig_resolves_over_udp_and_tcp() {
    everything_resolves("kdig", |pod, name, tcp| {
        let reply = pod.kdig(name, if tcp { "+tcp" } else { "+notcp" });
        assert_eq!(reply.status, "NOERROR", "{}", reply.text);
        reply.answers.join(" ")
    });
}

#[test]
fn a_glibc_program_resolves_over_udp_and_tcp() {
    everything_resolves("glibc", |pod, name, tcp| {
        let options = if tcp { "RES_OPTIONS=use-vc " } else { "" };
        let output = pod.sh(&format!("{options}getent ahostsv4 {name}"));
        output.stdout.split_whitespace().next().unwrap_or_default().to_owned()
    });
}

#[test]
fn a_statically_linked_program_resolves_over_udp_and_tcp() {
    everything_resolves("static", |pod, name, tcp| {
        let output = pod.sh(&format!("resolve {} {name}", if tcp { "-tcp" } else { "" }));
        assert!(output.success, "{output}");
        output.stdout.trim().to_owned()
    });
}

/// `lookup` finds a public name and the name of a service, over UDP and over TCP, and the proxy saw them come that way.
fn everything_resolves(program: &str, lookup: impl Fn(&RunningPod<'_>, &str, bool) -> String) {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create(program).restricted();
    let service = namespace.service("backend");
    let pod = namespace.run(&Pod::new("app").annotated());

    for tcp in [false, true] {
        let protocol = if tcp { "protocol=\"tcp\"" } else { "protocol=\"udp\"" };
        let asked = || pod.metric("dot_proxy_queries_total", protocol);
        let before = asked();
        assert_eq!(lookup(&pod, "www.example.com", tcp), "203.0.113.80");
        assert_eq!(lookup(&pod, &format!("backend.{}.svc.cluster.local", namespace.name()), tcp), service);
        assert!(asked() >= before + 2.0, "{program} asked another way than by {protocol}\n{}", pod.metrics());
    }
}
