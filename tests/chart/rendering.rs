//! What the chart renders: what the injector may do, what a value changes, which value is refused.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::{ROOT, render, yaml};

/// The only rendered document of this kind.
fn only<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let document = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    document
}

/// The only document of this kind that the chart renders with these arguments.
fn rendered(kind: &str, arguments: &[&str]) -> Value {
    only(&render(arguments).unwrap(), kind).clone()
}

/// The configuration that the injector is given.
fn injector_config(arguments: &[&str]) -> Value {
    yaml(rendered("ConfigMap", arguments)["data"]["config.yaml"].as_str().unwrap())
}

fn webhook(configuration: &Value, name: &str) -> Value {
    let webhooks = configuration["webhooks"].as_array().unwrap();
    webhooks.iter().find(|webhook| webhook["name"] == format!("{name}.dot-sidecar.io")).unwrap().clone()
}

/// Every path of a YAML tree that ends in something other than a map with members.
fn leaves(tree: &Value, path: &str, found: &mut BTreeSet<String>) {
    match tree.as_object().filter(|members| !members.is_empty()) {
        Some(members) => members.iter().for_each(|(name, member)| leaves(member, &format!("{path}/{name}"), found)),
        None => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn a_cluster_older_than_native_sidecars_is_refused() {
    assert!(render(&["--kube-version", "1.28.15"]).unwrap_err().contains(">=1.29.0-0"));
    for version in ["1.29.0", "1.31.2-gke.100", "1.37.0"] {
        render(&["--kube-version", version]).unwrap();
    }
}

#[test]
fn a_value_that_does_not_exist_or_cannot_be_meant_is_refused_by_name() {
    for (value, named) in [
        ("injector.replica=2", "replica"),
        ("injector.replicas=0", "replicas"),
        ("profile.upstream.servers={udp://192.0.2.1}", "servers"),
        ("profile.upstream.servers={tls://192.0.2.1}", "servers"),
        ("profile.log.level=loud", "level"),
        ("profile.events.syslog.server=tls://192.0.2.5", "server"),
        ("profile.events.buffer=1", "buffer"),
        ("webhook.annotated.failurePolicy=fail", "failurePolicy"),
        ("webhook.timeoutSeconds=31", "timeoutSeconds"),
        ("sidecar.image.digest=abc", "digest"),
        ("sidecar.runAsUser=0", "runAsUser"),
        ("sidecar.runAsUser=2147483648", "runAsUser"),
        ("platform=windows", "platform"),
    ] {
        let refused = render(&["--set", value]).unwrap_err();
        assert!(refused.contains(named), "{value}: {refused}");
    }
}

#[test]
fn the_schema_knows_the_values_that_exist_and_no_others() {
    let values = yaml(&std::fs::read_to_string(Path::new(ROOT).join("charts/dot-sidecar/values.yaml")).unwrap());
    let schema: Value = serde_json::from_str(
        &std::fs::read_to_string(Path::new(ROOT).join("charts/dot-sidecar/values.schema.json")).unwrap(),
    )
    .unwrap();
    let mut described = BTreeSet::new();
    schema_leaves(&schema, &schema, "", &mut described);
    described.remove("/global");
    let mut existing = BTreeSet::new();
    leaves(&values, "", &mut existing);
    let unknown: Vec<_> = existing.iter().filter(|path| !described.iter().any(|known| covers(known, path))).collect();
    assert!(unknown.is_empty(), "in values.yaml alone: {unknown:?}");
    let optional = [
        "/injector/resources/claims",
        "/profile/resources/limits/cpu",
        "/profile/resources/limits/ephemeral-storage",
        "/profile/resources/requests/ephemeral-storage",
    ];
    let missing: Vec<_> = described
        .iter()
        .filter(|known| !optional.contains(&known.as_str()) && !existing.iter().any(|path| covers(known, path)))
        .collect();
    assert!(missing.is_empty(), "in values.schema.json alone: {missing:?}");
}

/// Whether a path is the known one or lies under it.
fn covers(known: &str, path: &str) -> bool {
    path == known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('/'))
}

/// Every path of a schema that has no properties of its own.
fn schema_leaves(root: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let target = schema["$ref"].as_str().map_or(schema, |reference| root.pointer(&reference[1..]).unwrap());
    match target["properties"].as_object() {
        Some(members) => {
            assert_eq!(target["additionalProperties"], json!(false), "{path} lets unknown names pass");
            members.iter().for_each(|(name, member)| schema_leaves(root, member, &format!("{path}/{name}"), found));
        }
        None => _ = found.insert(path.to_owned()),
    }
}

#[test]
fn the_injector_may_do_what_these_rules_say_and_nothing_else() {
    let documents = render(&[]).unwrap();
    let rules = |kind| {
        let is_meant = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == "dot-injector";
        documents.iter().find(is_meant).unwrap()["rules"].clone()
    };
    let written = |rules: &[&str]| -> Value { rules.iter().map(|rule| yaml(rule)).collect() };
    assert_eq!(
        rules("ClusterRole"),
        written(&[
            r#"{"apiGroups":["admissionregistration.k8s.io"],"resourceNames":["dot-sidecar"],"resources":["mutatingwebhookconfigurations"],"verbs":["get","list","watch","patch"]}"#,
            r#"{"apiGroups":[""],"resources":["namespaces"],"verbs":["get","list","watch"]}"#,
            r#"{"apiGroups":[""],"resources":["limitranges"],"verbs":["list","watch"]}"#,
            r#"{"apiGroups":["dot-sidecar.io"],"resources":["proxyprofiles"],"verbs":["list","watch"]}"#,
            r#"{"apiGroups":["dot-sidecar.io"],"resources":["proxyprofiles/status"],"verbs":["patch"]}"#,
            r#"{"apiGroups":[""],"resources":["pods"],"verbs":["get","list","watch","patch"]}"#,
            r#"{"apiGroups":["dot-sidecar.io"],"resourceNames":["default"],"resources":["proxyprofiles"],"verbs":["create","patch"]}"#,
            r#"{"apiGroups":["apps"],"resources":["replicasets"],"verbs":["get"]}"#,
            r#"{"apiGroups":["batch"],"resources":["jobs"],"verbs":["get"]}"#,
            r#"{"apiGroups":["events.k8s.io"],"resources":["events"],"verbs":["create","patch"]}"#,
        ])
    );
    assert_eq!(
        rules("Role"),
        written(&[
            r#"{"apiGroups":[""],"resourceNames":["dot-injector-tls"],"resources":["secrets"],"verbs":["get","list","watch","update"]}"#,
            r#"{"apiGroups":[""],"resources":["secrets"],"verbs":["create"]}"#,
            r#"{"apiGroups":["apps"],"resourceNames":["dot-injector"],"resources":["deployments"],"verbs":["get"]}"#,
            r#"{"apiGroups":["coordination.k8s.io"],"resourceNames":["dot-injector"],"resources":["leases"],"verbs":["get","update"]}"#,
            r#"{"apiGroups":["coordination.k8s.io"],"resources":["leases"],"verbs":["create"]}"#,
        ])
    );
}

#[test]
fn pods_may_be_evicted_only_where_repair_is_wanted() {
    let may = |arguments: &[&str]| rendered("ClusterRole", arguments)["rules"].to_string().contains("pods/eviction");
    assert!(!may(&[]) && may(&["--set", "repair.enabled=true"]));
    assert_eq!(injector_config(&[])["repair"], json!({"enabled": false, "evictionsPerMinute": 6, "atOncePerOwner": 1}));
}

#[test]
fn the_injectors_pods_are_fit_for_pod_security_restricted() {
    let pod = rendered("Deployment", &[])["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"], json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    for shared in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
        assert!(pod[shared].is_null(), "{shared}");
    }
}

#[test]
fn an_update_of_the_injector_never_takes_a_replica_away_first() {
    let deployment = rendered("Deployment", &[]);
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"], json!({"maxUnavailable": 0, "maxSurge": 1}));
    assert_eq!(rendered("PodDisruptionBudget", &[])["spec"]["maxUnavailable"], 1);
}

#[test]
fn changed_configuration_starts_new_pods_of_the_injector_and_nothing_else_does() {
    let template = |arguments: &[&str]| rendered("Deployment", arguments)["spec"]["template"].clone();
    let plain = template(&[]);
    assert_ne!(plain, template(&["--set", "profile.log.level=debug"]));
    assert_ne!(plain, template(&["--set", "sidecar.image.tag=next"]));
    assert_eq!(plain, template(&["--set", "webhook.timeoutSeconds=5,injector.replicas=3"]));
}

#[test]
fn the_configuration_holds_what_the_values_say_and_leaves_out_what_is_empty() {
    let config = injector_config(&["--set", "profile.upstream.servers={quad9},cluster.domain=corp.example"]);
    let upstream = json!({"servers": ["quad9"], "strategy": "fastest", "protocol": "dot", "httpMethod": "post", "idleSeconds": 10});
    assert_eq!(config["profile"]["upstream"], upstream);
    assert!(config["profile"]["namespaces"].is_null() && config["profile"]["managed"].is_null());
    assert_eq!(injector_config(&["--set", "profile.managed=false"])["profile"], Value::Null);
    let cache = json!({"minTtlSeconds": 0, "maxTtlSeconds": 86_400, "staleSeconds": 86_400, "prefetch": true});
    assert_eq!(config["profile"]["cache"], cache);
    assert!(config["profile"].get("clients").is_none());
    assert_eq!(config["cluster"]["domain"], "corp.example");
    let config =
        injector_config(&["--set", "profile.cache.size=4Mi", "--set-string", "profile.upstream.ca=PEM\nPEM\n"]);
    assert_eq!(config["profile"]["cache"]["size"], "4Mi");
    let clients = &injector_config(&["--set", "profile.clients.connection.idleSeconds=10"])["profile"]["clients"];
    assert_eq!(*clients, json!({"connection": {"idleSeconds": 10}}));
    assert_eq!(config["profile"]["upstream"]["ca"], "PEM\nPEM\n");
    let silent = json!({"stdout": false, "names": false, "buffer": 1024, "labels": {}});
    assert_eq!(config["profile"]["events"], silent);
    let config = injector_config(&["--set", "profile.events.syslog.server=tls://192.0.2.5#siem.example"]);
    assert_eq!(config["profile"]["events"]["syslog"], json!({"server": "tls://192.0.2.5#siem.example"}));
}

#[test]
fn with_a_client_ca_the_injector_is_told_whom_to_serve() {
    let arguments = |arguments: &[&str]| {
        let deployment = rendered("Deployment", arguments);
        deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone()
    };
    assert!(!arguments(&[]).iter().any(|argument| argument.as_str().unwrap().starts_with("--client")));
    let pem = "webhook.clientCA=-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let values = ["--set-string", pem, "--set", "webhook.clientNames={kube-apiserver,other}"];
    for expected in
        ["--client-ca=/etc/dot-injector/client-ca.pem", "--client-name=kube-apiserver", "--client-name=other"]
    {
        assert!(arguments(&values).contains(&json!(expected)), "{expected}");
    }
    let file = rendered("ConfigMap", &values)["data"]["client-ca.pem"].as_str().unwrap().to_owned();
    assert!(file.starts_with("-----BEGIN CERTIFICATE-----\nAAAA\n"), "{file}");
    let refused = render(&["--set", "webhook.clientNames={kube-apiserver}"]).unwrap_err();
    assert!(refused.contains("webhook.clientCA"), "{refused}");
    assert!(render(&["--set", "webhook.clientCA=nonsense"]).unwrap_err().contains("clientCA"));
}

#[test]
fn the_injector_is_told_how_long_its_certificates_last() {
    let certificates = |arguments: &[&str]| injector_config(arguments)["certificates"].clone();
    let plain =
        json!({"external": false, "leafSeconds": 2_592_000, "authoritySeconds": 31_536_000, "graceSeconds": 60});
    assert_eq!(certificates(&[]), plain);
    assert_eq!(certificates(&["--set", "certificates.leafSeconds=86400"])["leafSeconds"], 86_400);
    assert!(render(&["--set", "certificates.leafSeconds=2592001"]).unwrap_err().contains("leafSeconds"));
    assert!(render(&[]).unwrap().iter().all(|document| document["apiVersion"] != "cert-manager.io/v1"));
}

#[test]
fn with_cert_manager_the_injector_reads_the_secret_that_cert_manager_writes() {
    let enabled = ["--set", "certificates.certManager.enabled=true"];
    assert_eq!(injector_config(&enabled)["certificates"]["external"], true);
    let documents = render(&enabled).unwrap();
    let named = |kind: &str, name: &str| -> Value {
        let is_meant = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
        documents.iter().find(is_meant).unwrap_or_else(|| panic!("no {kind} {name}"))["spec"].clone()
    };
    assert_eq!(named("Issuer", "dot-injector-root"), json!({"selfSigned": {}}));
    let ca = named("Certificate", "dot-injector-ca");
    assert_eq!(
        (&ca["isCA"], &ca["duration"], &ca["renewBefore"]),
        (&json!(true), &json!("31536000s"), &json!("10512000s"))
    );
    assert_eq!(ca["issuerRef"]["name"], "dot-injector-root");
    assert_eq!(named("Issuer", "dot-injector"), json!({"ca": {"secretName": ca["secretName"]}}));
    let leaf = named("Certificate", "dot-injector");
    assert_eq!(leaf["secretName"], "dot-injector-tls");
    assert_eq!(leaf["dnsNames"], json!(["dot-injector.release-space.svc"]));
    assert_eq!((&leaf["duration"], &leaf["renewBefore"]), (&json!("2592000s"), &json!("864000s")));
    assert_eq!(leaf["issuerRef"], json!({"name": "dot-injector", "kind": "Issuer", "group": "cert-manager.io"}));
    let is_meant = |document: &&Value| document["kind"] == "Role" && document["metadata"]["name"] == "dot-injector";
    let rules = documents.iter().find(is_meant).unwrap()["rules"].as_array().unwrap();
    let of_secrets: Vec<_> = rules.iter().filter(|rule| rule["resources"] == json!(["secrets"])).collect();
    assert_eq!(of_secrets.len(), 1, "{of_secrets:?}");
    assert_eq!(of_secrets[0]["verbs"], json!(["get", "list", "watch"]));
    // The bundle is the injector's to write all the same.
    let annotations = &only(&documents, "MutatingWebhookConfiguration")["metadata"]["annotations"];
    assert!(annotations.is_null(), "{annotations}");

    let own = [
        "--set",
        "certificates.certManager.enabled=true,certificates.certManager.issuerRef.name=internal",
        "--set",
        "certificates.certManager.issuerRef.kind=ClusterIssuer,cluster.domain=corp.example",
    ];
    let documents = render(&own).unwrap();
    let leaf = &only(&documents, "Certificate")["spec"];
    assert_eq!(leaf["issuerRef"], json!({"name": "internal", "kind": "ClusterIssuer"}));
    assert_eq!(leaf["dnsNames"][1], "dot-injector.release-space.svc.corp.example");
    assert!(documents.iter().all(|document| document["kind"] != "Issuer"));
    let nameless = ["--set", "certificates.certManager.issuerRef.kind=ClusterIssuer"];
    assert!(render(&nameless).unwrap_err().contains("name"));
    let short = ["--set", "certificates.certManager.enabled=true,certificates.leafSeconds=60"];
    assert!(render(&short).unwrap_err().contains("certificates.leafSeconds"));
}

#[test]
fn the_self_check_has_a_namespace_in_which_the_injector_may_do_dry_runs_alone() {
    let documents = render(&[]).unwrap();
    let named = |kind: &str, name: &str| -> Value {
        let is_meant = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
        documents.iter().find(is_meant).unwrap_or_else(|| panic!("no {kind} {name}")).clone()
    };
    assert_eq!(injector_config(&[])["selfCheck"], json!({"namespace": "dot-sidecar-self-check", "seconds": 60}));
    let namespace = named("Namespace", "dot-sidecar-self-check");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let policy = named("ValidatingAdmissionPolicy", "dot-sidecar-self-check");
    assert_eq!(
        policy["spec"]["matchConditions"][0]["expression"],
        "request.userInfo.username == 'system:serviceaccount:release-space:dot-injector'"
    );
    assert_eq!(
        named("ValidatingAdmissionPolicyBinding", "dot-sidecar-self-check")["spec"]["validationActions"],
        json!(["Deny"])
    );
    let role = named("Role", "dot-injector-self-check");
    assert_eq!(role["rules"], json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]));
    for without in [&["--set", "selfCheck.enabled=false"][..], &["--kube-version", "1.29.0"], &BY_POLICY] {
        assert_eq!(injector_config(without)["selfCheck"]["namespace"], "");
        assert!(
            render(without).unwrap().iter().all(|document| document["metadata"]["name"] != "dot-sidecar-self-check")
        );
    }
}

#[test]
fn where_the_control_plane_does_not_reach_pods_the_injector_can_use_its_nodes_network() {
    let pod = rendered("Deployment", &["--set", "injector.hostNetwork=true"])["spec"]["template"]["spec"].clone();
    assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&json!(true), &json!("ClusterFirstWithHostNet")));
}

#[test]
fn an_image_is_named_by_tag_and_by_digest_if_one_is_given() {
    let image = |arguments: &[&str]| injector_config(arguments)["sidecar"]["image"].as_str().unwrap().to_owned();
    assert_eq!(image(&["--set", "sidecar.image.repository=r.example/p"]), "r.example/p:0.1.0");
    let digest = format!("sha256:{}", "0".repeat(64));
    let named = image(&[
        "--set",
        &format!("sidecar.image.repository=r.example/p,sidecar.image.tag=t,sidecar.image.digest={digest}"),
    ]);
    assert_eq!(named, format!("r.example/p:t@{digest}"));
}

#[test]
fn the_platform_chooses_the_sidecars_user_on_openshift_alone() {
    let user = |arguments: &[&str]| injector_config(arguments)["sidecar"]["runAsUser"].clone();
    assert_eq!(user(&[]), 64_053);
    assert_eq!(user(&["--set", "sidecar.runAsUser=1000660000"]), 1_000_660_000);
    assert_eq!(user(&["--api-versions", "security.openshift.io/v1"]), Value::Null);
    assert_eq!(user(&["--set", "platform=openshift"]), Value::Null);
    assert_eq!(user(&["--set", "sidecar.runAsUser=null"]), Value::Null);
    assert_eq!(user(&["--api-versions", "security.openshift.io/v1", "--set", "platform=kubernetes"]), 64_053);
}

#[test]
fn the_webhooks_leave_their_ca_bundle_to_the_injector() {
    let configuration = rendered("MutatingWebhookConfiguration", &[]);
    for webhook in configuration["webhooks"].as_array().unwrap() {
        assert_eq!(webhook["clientConfig"].as_object().unwrap().keys().collect::<Vec<_>>(), ["service"]);
        assert_eq!(webhook["clientConfig"]["service"]["namespace"], "release-space");
    }
}

#[test]
fn only_pods_that_ask_can_be_refused_for_want_of_an_injector() {
    let configuration = rendered("MutatingWebhookConfiguration", &[]);
    let policy = |name| webhook(&configuration, name)["failurePolicy"].clone();
    assert_eq!(
        (policy("annotated"), policy("namespace"), policy("unserved")),
        (json!("Fail"), json!("Fail"), json!("Ignore"))
    );
    let asked = json!({"dot-sidecar.io/inject": "true"});
    assert_eq!(webhook(&configuration, "annotated")["matchConditions"][0]["name"], "carries-what-is-ours");
    assert_eq!(webhook(&configuration, "namespace")["namespaceSelector"]["matchLabels"], asked);
    assert_eq!(webhook(&configuration, "unserved")["namespaceSelector"]["matchLabels"], asked);
    let open = rendered(
        "MutatingWebhookConfiguration",
        &["--set", "webhook.annotated.failurePolicy=Ignore,webhook.namespace.failurePolicy=Ignore"],
    );
    assert_eq!(webhook(&open, "annotated")["failurePolicy"], "Ignore");
    assert_eq!(webhook(&open, "namespace")["failurePolicy"], "Ignore");
}

#[test]
fn pods_with_a_resolver_of_their_own_fail_closed_where_the_default_profile_serves_them() {
    let condition = |name, arguments: &[&str]| {
        let configuration = rendered("MutatingWebhookConfiguration", arguments);
        webhook(&configuration, name)["matchConditions"][2]["expression"].as_str().unwrap().to_owned()
    };
    for name in ["namespace", "unserved"] {
        assert!(condition(name, &[]).contains("object.spec.dnsPolicy in ['Default', 'None']"));
        assert!(!condition(name, &["--set", "profile.ownNameservers=replace"]).contains("dnsPolicy"));
    }
}

#[test]
fn the_injectors_own_namespace_and_kube_system_are_excluded_whatever_else_is() {
    let configuration =
        rendered("MutatingWebhookConfiguration", &["--set", "webhook.excludedNamespaces={other,kube-system}"]);
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let expected = json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn",
            "values": ["kube-system", "release-space", "other"]}]);
        assert_eq!(webhook["namespaceSelector"]["matchExpressions"], expected);
    }
}

#[test]
fn the_definition_of_profiles_is_upgraded_with_the_chart_and_stays_when_it_goes_unless_told_otherwise() {
    let definition = rendered("CustomResourceDefinition", &[]);
    assert_eq!(definition["metadata"]["name"], "proxyprofiles.dot-sidecar.io");
    assert_eq!(definition["metadata"]["annotations"], json!({"helm.sh/resource-policy": "keep"}));
    let leaving = rendered("CustomResourceDefinition", &["--set", "crds.keep=false"]);
    assert!(leaving["metadata"]["annotations"].is_null());
    assert_eq!(leaving["spec"], definition["spec"]);
    let without = render(&["--set", "crds.install=false"]).unwrap();
    assert!(without.iter().all(|document| document["kind"] != "CustomResourceDefinition"));
}

#[test]
fn policies_are_installed_where_the_api_server_knows_them_and_refuse_only_what_fails_closed() {
    let bindings = |arguments: &[&str]| -> Vec<String> {
        let documents = render(arguments).unwrap();
        let bindings = documents.iter().filter(|document| document["kind"] == "ValidatingAdmissionPolicyBinding");
        bindings
            .map(|binding| {
                format!("{} {}", binding["spec"]["policyName"].as_str().unwrap(), binding["spec"]["validationActions"])
            })
            .collect()
    };
    let refusing =
        ["asked", "ephemeral", "excluded", "injector", "namespace", "profile", "records", "self-check"].map(|name| {
            // Who deletes a profile in use is warned, and that is all.
            let action = if name == "profile" { "Warn" } else { "Deny" };
            format!(r#"dot-sidecar-{name} ["{action}"]"#)
        });
    assert_eq!(bindings(&[]), refusing);
    assert_eq!(bindings(&["--kube-version", "1.29.4"]), [""; 0]);
    // Without it the self-check could make pods.
    assert_eq!(bindings(&["--set", "guards.enabled=false"]), [r#"dot-sidecar-self-check ["Deny"]"#]);
    let open = bindings(&["--set", "webhook.annotated.failurePolicy=Ignore"]);
    assert_eq!(open[0], r#"dot-sidecar-asked ["Warn","Audit"]"#);
    assert_eq!(open[1..], refusing[1..]);
    let open = bindings(&["--set", "webhook.namespace.failurePolicy=Ignore"]);
    assert_eq!(open[4], r#"dot-sidecar-namespace ["Warn","Audit"]"#);
}

/// The arguments that have the API server inject.
const BY_POLICY: [&str; 4] = ["--set", "admission.mode=policy", "--kube-version", "1.36.0"];

#[test]
fn where_the_api_server_injects_nothing_of_the_webhook_is_installed() {
    let documents = render(&[&BY_POLICY[..], &["--set", "networkPolicy.enabled=true"]].concat()).unwrap();
    let kinds: BTreeSet<&str> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains("MutatingAdmissionPolicy") && kinds.contains("MutatingAdmissionPolicyBinding"));
    assert!(!kinds.contains("MutatingWebhookConfiguration") && !kinds.contains("Service"), "{kinds:?}");
    for kind in ["ClusterRole", "Role"] {
        let rules = only(&documents, kind)["rules"].to_string();
        for unneeded in ["mutatingwebhookconfigurations", "limitranges", "secrets"] {
            assert!(!rules.contains(unneeded), "{kind}: {unneeded}");
        }
    }
    let container = &only(&documents, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].to_string();
    assert!(arguments.contains("--without-webhook") && !arguments.contains("--listen"), "{arguments}");
    assert_eq!(container["ports"], json!([{"name": "admin", "containerPort": 8080}]));
    assert_eq!(only(&documents, "NetworkPolicy")["spec"]["ingress"], json!([]));
    // Which profile is a pod's no policy can say, so that each is tried; without any, nothing is closed to pods that did not ask.
    let bindings = documents.iter().filter(|document| document["kind"].as_str().unwrap().ends_with("PolicyBinding"));
    for parameters in bindings.map(|binding| &binding["spec"]["paramRef"]).filter(|parameters| !parameters.is_null()) {
        assert_eq!(parameters, &json!({"selector": {}, "parameterNotFoundAction": "Allow"}));
    }
    for policy in documents.iter().filter(|document| !document["spec"]["paramKind"].is_null()) {
        assert_eq!(policy["spec"]["failurePolicy"], "Ignore", "{}", policy["metadata"]["name"]);
    }
}

#[test]
fn what_injection_by_policy_cannot_do_is_refused_with_the_remedy() {
    let with = |value| render(&[&BY_POLICY[..], &["--set", value]].concat()).unwrap_err();
    let older = render(&["--set", "admission.mode=policy", "--kube-version", "1.35.4"]).unwrap_err();
    assert!(
        older.contains(
            "admission.mode: policy needs Kubernetes 1.36 or later, and this is v1.35.4: leave it at webhook"
        )
    );
    for (value, words) in [
        ("guards.enabled=false", "needs guards.enabled"),
        ("profile.ownNameservers=replace", "leave profile.ownNameservers at refuse"),
        ("certificates.certManager.enabled=true", "which certificates.certManager.enabled is about"),
        ("webhook.clientCA=-----BEGIN CERTIFICATE-----", "which webhook.clientCA is about"),
        ("repair.enabled=true", "repair.enabled would evict"),
        ("admission.mode=both", "mode"),
    ] {
        let refused = with(value);
        assert!(refused.contains(words), "{value}: {refused}");
    }
}

#[test]
fn what_is_optional_is_made_only_if_asked_for() {
    let kinds = |arguments: &[&str]| -> BTreeSet<String> {
        render(arguments).unwrap().iter().map(|document| document["kind"].as_str().unwrap().to_owned()).collect()
    };
    let plain = kinds(&[]);
    assert!(!plain.contains("NetworkPolicy") && !plain.contains("PodMonitor"));
    let all = kinds(&["--set", "networkPolicy.enabled=true,metrics.podMonitor.enabled=true"]);
    assert!(all.contains("NetworkPolicy") && all.contains("PodMonitor"));
    assert!(!kinds(&["--set", "injector.podDisruptionBudget.enabled=false"]).contains("PodDisruptionBudget"));
}

#[test]
fn every_resource_carries_the_common_labels_and_is_told_its_namespace() {
    let arguments = ["--set", "commonLabels.team=dns,networkPolicy.enabled=true,metrics.podMonitor.enabled=true"];
    let by_policy = [&arguments[..], &BY_POLICY].concat();
    for document in render(&arguments).unwrap().into_iter().chain(render(&by_policy).unwrap()) {
        let metadata = &document["metadata"];
        assert_eq!(metadata["labels"]["team"], "dns", "{document}");
        let kind = document["kind"].as_str().unwrap();
        let cluster_wide = kind.starts_with("Cluster")
            || ["CustomResourceDefinition", "MutatingWebhookConfiguration", "Namespace"].contains(&kind)
            || kind.contains("AdmissionPolicy");
        let namespace = match metadata["name"].as_str().unwrap() {
            _ if cluster_wide => Value::Null,
            "dot-injector-self-check" => json!("dot-sidecar-self-check"),
            _ => json!("release-space"),
        };
        assert_eq!(metadata["namespace"], namespace, "{document}");
    }
}
