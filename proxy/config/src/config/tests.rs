use super::*;
use proptest::proptest;

fn refused(text: &str) -> String {
    Config::from_yaml(text).unwrap_err().to_string()
}

#[test]
fn an_empty_configuration_is_the_default_one() {
    for text in ["", "\n", "{}"] {
        assert_eq!(Config::from_yaml(text), Ok(Config::default()));
    }
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn yaml_and_json_say_the_same() {
    let yaml = "listen: {host: 127.0.0.1, port: 53}\nupstream:\n  servers: [tls://192.0.2.53#dns.example]\nroutes:\n- suffixes: [Cluster.local.]\n  servers: [udp://10.96.0.10]\ncluster: {domain: cluster.local}\ncache: {size: 4Mi}\n";
    let json = r#"{"listen":{"host":"127.0.0.1","port":53},"upstream":{"servers":["tls://192.0.2.53:853#dns.example"]},"routes":[{"suffixes":["cluster.local"],"servers":["udp://10.96.0.10:53"]}],"cluster":{"domain":"cluster.local"},"cache":{"size":"4Mi"}}"#;
    assert_eq!(Config::from_yaml(yaml).unwrap(), Config::from_yaml(json).unwrap());
}

#[test]
fn an_error_names_the_path_of_the_field_and_the_remedy() {
    for (text, path, remedy) in [
        ("upstream: {servers: [cloudflare, nonsense]}", "upstream.servers[1]: ", "cloudflare, quad9, google"),
        ("upstream: {servers: []}", "upstream.servers: ", "name a server"),
        ("upstream: {server: [quad9]}", "upstream.server: ", "expected one of"),
        ("upstream: {servers: [\"udp://10.0.0.1\"]}", "upstream.servers[0]: ", "write tls://"),
        ("listen: {port: 70000}", "listen.port: ", "expected u16"),
        ("listen: {host: localhost}", "listen.host: ", "invalid IP address"),
        ("listen: {allow: [10.1.0.0/8]}", "listen.allow[0]: ", "write 10.0.0.0/8"),
        ("threads: 0", "threads: ", "from 1 to 64"),
        ("query: {deadlineMilliseconds: 1}", "query.deadlineMilliseconds: ", "from 100 to 60000"),
        ("cache: {size: lots}", "cache.size: ", "such as 4Mi"),
        ("cache: {minTtlSeconds: 10, maxTtlSeconds: 5}", "cache.minTtlSeconds: ", "from 0 to 5"),
        ("routes: [{suffixes: [\".\"], servers: [\"udp://10.0.0.1\"]}]", "routes[0].suffixes[0]: ", "name a domain"),
        ("routes: [{suffixes: [a], servers: []}]", "routes[0].servers: ", "name a server"),
        ("routes: [{suffixes: [a, A.], servers: [quad9]}]", "routes[0].suffixes[1]: ", "keep one"),
        ("log: {level: loud}", "log.level: ", "expected one of"),
        ("upstream: {ca: hello}", "upstream.ca: ", "BEGIN CERTIFICATE"),
        ("upstream: {pins: [sha256/short]}", "upstream.pins[0]: ", "44 characters"),
        ("upstream: {strategy: random}", "upstream.strategy: ", "`fastest`, `ordered`, `round-robin`"),
        ("upstream: {protocol: https}", "upstream.protocol: ", "`dot`, `doh`, `doq`, `curl`, `kdig`"),
        ("upstream: {protocol: doq}", "upstream.servers[0]: cloudflare ", "write quad9, or quic://ADDRESS#NAME"),
        (
            "upstream: {protocol: doq, servers: [quad9]}\nroutes: [{suffixes: [a], servers: [google]}]",
            "routes[0].servers[0]: google ",
            "write quad9",
        ),
        (
            "upstream: {protocol: curl, servers: [\"tls://192.0.2.1#a.example\"]}",
            "upstream.protocol: curl ",
            "write https://ADDRESS/PATH#NAME",
        ),
        ("upstream: {httpMethod: PUT}", "upstream.httpMethod: ", "`post` or `get`"),
        ("upstream: {idleSeconds: 0}", "upstream.idleSeconds: ", "from 1 to 3600"),
        ("upstream: {clientCertificate: {certificateFile: /c}}", "upstream.clientCertificate: ", "keyFile"),
        (
            "upstream: {clientCertificate: {certificateFile: /c, key: x}}",
            "upstream.clientCertificate.key: ",
            "expected `certificateFile` or `keyFile`",
        ),
        (
            "routes: [{suffixes: [a], servers: [quad9], strategy: random}]",
            "routes[0].strategy: ",
            "`fastest`, `ordered`, `round-robin`",
        ),
        ("cache: {staleSeconds: 604801}", "cache.staleSeconds: ", "from 0 to 604800"),
        ("cache: {prefetch: 1}", "cache.prefetch: ", "expected a boolean"),
        ("confinement: loose", "confinement: ", "expected a boolean"),
        ("query: {inFlight: 0}", "query.inFlight: ", "from 1 to 65536"),
        ("events: {syslog: {server: \"tls://192.0.2.5\"}}", "events.syslog.server: ", "add #NAME"),
        ("events: {syslog: {}}", "events.syslog: ", "server"),
        (
            "events: {names: true, syslog: {server: \"tcp://192.0.2.5\"}}",
            "events.names: ",
            "in the clear to tcp://192.0.2.5:601: write tls://",
        ),
        (
            "events: {syslog: {server: \"tcp://192.0.2.5\", caFile: /ca.pem}}",
            "events.syslog.server: ",
            "write tls://192.0.2.5:601#NAME",
        ),
        ("events: {buffer: 1}", "events.buffer: ", "from 16 to 65536"),
        ("events: {labels: {Team: a}}", "events.labels: ", "lower-case"),
        ("clients: {inFlight: 0}", "clients.inFlight: ", "from 1 to 65536"),
        ("clients: {connection: {queryOctets: 100}}", "clients.connection.queryOctets: ", "from 512 to 65535"),
        ("clients: {connection: {owed: 1Ki}}", "clients.connection.owed: ", "from 128Ki to 64Mi"),
        ("clients: {shutOut: {mostSeconds: 5}}", "clients.shutOut.mostSeconds: ", "from 10 to 604800"),
        ("clients: {shutOut: {weights: {slow: many}}}", "clients.shutOut.weights.slow: ", "expected u32"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(path) && error.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn confinement_is_left_out_by_false_or_off_and_by_nothing_else() {
    for (text, expected) in
        [("{}", true), ("confinement: on", true), ("confinement: false", false), ("confinement: off", false)]
    {
        assert_eq!(Config::from_yaml(text).unwrap().confinement, Confinement(expected), "{text}");
    }
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_place() {
    let error = refused("listen: {host: 127.0.0.1\n");
    assert!(error.starts_with("not readable as YAML or JSON"), "{error}");
}

#[test]
fn a_configuration_written_as_json_reads_back_the_same() {
    let mut config = Config::default();
    config.listen.allow.push("203.0.113.0/24".parse().unwrap());
    config.routes.push(Route::new(vec!["corp.example".parse().unwrap()], vec!["udp://10.0.0.53".parse().unwrap()]));
    config.upstream.strategy = Strategy::RoundRobin;
    config.upstream.protocol = Protocol::Doh;
    config.upstream.http_method = HttpMethod::Get;
    config.upstream.pins.push("sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse().unwrap());
    config.upstream.client_certificate =
        Some(ClientCertificate { certificate_file: "/etc/tls.crt".into(), key_file: "/etc/tls.key".into() });
    config.cluster = Some(Cluster { domain: "cluster.local".parse().unwrap() });
    config.cache.size = Some(ByteSize::from_bytes(4 << 20));
    config.confinement = Confinement(false);
    assert!(!config.to_json().contains("clients"), "what is as by default need not travel on every pod");
    config.clients.shut_out.weights.slow = 7;
    config.clients.owed_in_all = ByteSize::from_bytes(8 << 20);
    assert_eq!(Config::from_yaml(&config.to_json()), Ok(config));
}

#[test]
fn the_upstream_s_fastest_server_is_asked_first_and_a_route_s_first_unless_told_otherwise() {
    let route = r#"suffixes: [a], servers: ["udp://10.0.0.1"]"#;
    let strategies = |text: &str| {
        let config = Config::from_yaml(text).unwrap();
        (config.upstream.strategy, config.routes[0].strategy)
    };
    assert_eq!(strategies(&format!("routes: [{{{route}}}]")), (Strategy::Fastest, Strategy::Ordered));
    let told = format!("upstream: {{strategy: ordered}}\nroutes: [{{{route}, strategy: round-robin}}]");
    assert_eq!(strategies(&told), (Strategy::Ordered, Strategy::RoundRobin));
}

proptest! {
    #[test]
    fn any_text_at_all_is_read_or_refused_without_a_panic(text in "\\PC{0,200}") {
        let _ = Config::from_yaml(&text);
    }
}
