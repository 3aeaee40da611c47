//! The images, as their last stages are built: a static binary under a user of our own, and beside it nothing, or the one
//! program that asks.

use dot_e2e::image::Image;
use dot_e2e::pod::PROXY_IMAGE;
use dot_e2e::reply::Reply;
use dot_e2e::{Call, Cluster, Namespace, Pod, QuicResolver, RunningPod, chart, upstream};
use serde_json::json;

#[test]
fn each_image_holds_one_binary_and_names_a_user_of_its_own() {
    let _cluster = Cluster::shared();
    for name in ["dot-proxy", "dot-injector"] {
        let image = Image::built(name);
        let config = image.config();

        // On an otherwise empty file system only a static binary runs; the tests below run both.
        assert_eq!(image.files(), [name]);
        assert_eq!(config["User"], "64053:64053");
        assert_eq!(config["Entrypoint"], json!([format!("/{name}")]));
        for label in ["title", "version", "revision", "source", "licenses"] {
            let label = format!("org.opencontainers.image.{label}");
            assert!(
                config["Labels"][&label].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {label}: {config:#}"
            );
        }
    }
}

#[test]
fn the_proxys_image_alone_answers_over_udp_and_tcp_with_everything_taken_away() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("image").restricted();
    let pod = proxy_alone(&cluster, &namespace);

    answers_with_everything_taken_away(&pod);
}

#[test]
fn the_image_of_each_resolver_holds_that_and_asks_by_it() {
    for (stub, program) in
        [("doh", None), ("doq", None), ("curl", Some("usr/bin/curl")), ("kdig", Some("usr/bin/kdig"))]
    {
        let image = Image::built(&format!("dot-proxy-{stub}"));
        let (config, files) = (image.config(), image.files());
        let programs: Vec<_> = files.iter().filter(|file| file.contains("bin/")).map(String::as_str).collect();

        assert_eq!(config["User"], "64053:64053");
        assert_eq!(config["Entrypoint"], json!(["/dot-proxy"]));
        let names_stub = |variable: &serde_json::Value| *variable == format!("DOT_PROXY_STUB={stub}");
        assert!(config["Env"].as_array().unwrap().iter().any(names_stub), "{config:#}");
        assert_eq!(programs, program.into_iter().collect::<Vec<_>>(), "{stub}: no shell, nothing else to run");
        assert_eq!(files.len() == 1, program.is_none(), "{stub}: {files:?}");
    }
}

#[test]
fn the_image_of_each_resolver_answers_over_udp_and_tcp_with_everything_taken_away() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("stubs").restricted();
    let (tls, https) = (cluster.upstream.url(upstream::NAME), cluster.upstream.https_url(upstream::NAME));
    let resolver = QuicResolver::beside(&cluster.upstream, &cluster.authority.identity(upstream::NAME));
    let quic = resolver.url(upstream::NAME);
    for (stub, url) in [("doh", &https), ("doq", &quic), ("curl", &https), ("kdig", &tls)] {
        let pod = resolver_alone(&cluster, &namespace, stub, url);
        answers_with_everything_taken_away(&pod);
    }
}

#[test]
fn a_resolver_that_there_is_not_fails_the_build_with_those_that_there_are() {
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/image-files");

    let output = Call::new(files).arg("magic").arg("/nonexistent").output();

    assert!(!output.success && output.stderr.contains("write one of ssock, doh, doq, curl, kdig"), "{output}");
}

#[test]
fn a_source_outside_loopback_and_private_ranges_gets_no_answer() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("strangers").restricted();
    let pod = proxy_alone(&cluster, &namespace);

    for transport in ["+notcp", "+tcp"] {
        let dig = Call::new("dig")
            .arg(format!("@{}", pod.ip()))
            .words("-p 1053 +tries=1 +time=2 www.example.com -b")
            .arg(cluster.upstream.address())
            .arg(transport);
        let output = dig.output();
        assert!(!output.stdout.contains("203.0.113.80"), "{output}");
    }
    assert!(pod.metric("dot_proxy_dropped_total", "reason=\"source\"") >= 2.0, "{}", pod.metrics());
}

#[test]
fn the_injectors_image_runs_with_everything_taken_away() {
    let _cluster = Cluster::shared();

    let pods = Call::kubectl(&format!("--namespace {} get pods -o json", chart::NAMESPACE)).json();

    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 2, "two replicas");
    for pod in pods {
        let context = &pod["spec"]["containers"][0]["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{:#}", pod["spec"]);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}

/// Answers over UDP and TCP, as nobody in particular and without any capability.
fn answers_with_everything_taken_away(pod: &RunningPod<'_>) {
    for transport in ["+notcp", "+tcp"] {
        let dig = Call::new("dig")
            .arg(format!("@{}", pod.ip()))
            .words("-p 1053 +tries=1 +time=10 www.example.com")
            .arg(transport);
        let reply = Reply::read(&dig.output());
        assert_eq!(reply.answers, ["203.0.113.80"], "{}\n{}", reply.text, pod.log("app"));
    }
    let process = std::fs::read_to_string(pod.root_of("app").join("proc/1/status")).unwrap();
    for line in ["Uid:\t64053\t64053\t64053\t64053", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(process.contains(line), "{line} is not in\n{process}\n{}", pod.log("app"));
    }
}

/// A pod of the image alone, which listens on all its addresses.
fn proxy_alone<'a>(cluster: &Cluster, namespace: &'a Namespace) -> RunningPod<'a> {
    let config = json!({
        "listen": {"host": "0.0.0.0", "port": 1053},
        "admin": {"address": "0.0.0.0:9853"},
        "upstream": {"servers": [cluster.upstream.url(upstream::NAME)], "ca": cluster.authority.certificate()}
    });
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "proxy"}, "data": {"config.json": config.to_string()}
    });
    namespace.create_object(&map);
    let proxy = Pod::new("proxy")
        .with(json!({"spec": {
            "automountServiceAccountToken": false,
            "volumes": [{"name": "config", "configMap": {"name": "proxy"}}]
        }}))
        .app(json!({
            "image": PROXY_IMAGE,
            "args": ["--config", "/etc/dot-proxy/config.json"],
            "securityContext": {"readOnlyRootFilesystem": true},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/dot-proxy", "readOnly": true}],
            "startupProbe": {"exec": {"command": ["/dot-proxy", "probe", "--config", "/etc/dot-proxy/config.json"]}, "periodSeconds": 1}
        }));

    namespace.run(&proxy)
}

/// A pod of the image of a resolver, told by flags whom to ask: how, the image says.
fn resolver_alone<'a>(cluster: &Cluster, namespace: &'a Namespace, stub: &str, url: &str) -> RunningPod<'a> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": stub},
        "data": {"ca.pem": cluster.authority.certificate()}
    });
    namespace.create_object(&map);
    let proxy = Pod::new(stub)
        .with(json!({"spec": {
            "automountServiceAccountToken": false,
            "volumes": [{"name": "ca", "configMap": {"name": stub}}]
        }}))
        .app(json!({
            "image": format!("dot-sidecar.local/dot-proxy-{stub}:test"),
            "args": ["--upstream", url, "--tls-ca", "/etc/dot-proxy/ca.pem"],
            "securityContext": {"readOnlyRootFilesystem": true},
            "volumeMounts": [{"name": "ca", "mountPath": "/etc/dot-proxy", "readOnly": true}],
            "startupProbe": {"exec": {"command": ["/dot-proxy", "probe"]}, "periodSeconds": 1}
        }));

    namespace.run(&proxy)
}
