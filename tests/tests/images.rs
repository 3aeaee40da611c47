//! The images, as their last stages are built: nothing but a static binary under a user of our own.

use dot_e2e::image::Image;
use dot_e2e::pod::PROXY_IMAGE;
use dot_e2e::reply::Reply;
use dot_e2e::{Call, Cluster, Namespace, Pod, RunningPod, chart, upstream};
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
        assert!(process.contains(line), "{line} is not in\n{process}");
    }
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
