use super::*;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use crate::events::Transport;
use crate::upstream::cause::Cause;

const CLIENT: &str = "127.0.0.1:40000";

/// One of each.
fn every_event() -> Vec<Event> {
    let client: SocketAddr = CLIENT.parse().unwrap();
    let server = || "tls://192.0.2.53:853#dns.example".into();
    vec![
        Event::ClientMisbehaved { client, transport: Transport::Udp, how: "not-a-query" },
        Event::ClientSlowed { client: client.ip(), how: "not-dns", duration: Duration::from_secs(4), times: 1 },
        Event::ClientShutOut { client: client.ip(), how: "bad-frame", duration: Duration::from_secs(4), times: 3 },
        Event::ClientReadmitted { client: client.ip() },
        Event::ConnectionReset { client, why: "bad-frame" },
        Event::SourceRefused { client, transport: Transport::Tcp },
        Event::NameWithheld { client: Some(client.ip()), rule: "single-label", name: "web.".to_owned(), qtype: 28 },
        Event::CertificateRefused { server: server(), group: "upstream".into(), cause: Cause::CertificateExpired },
        Event::AnswerRefused { server: server(), group: "upstream".into(), why: "response-malformed" },
        Event::ConfigurationRefused { field: "upstream.servers[0]".to_owned(), reason: "write tls://".to_owned() },
        Event::QueryPanicked { place: "listener" },
        Event::ConfinementMissing { means: "landlock" },
        Event::EventsDropped { destination: "syslog" },
    ]
}

/// The one that is called so.
fn event(action: &str) -> Event {
    every_event().into_iter().find(|event| event.action() == action).unwrap()
}

fn written(writer: &Writer, event: Event, count: u64) -> Value {
    let start = UNIX_EPOCH + Duration::from_secs(1_798_761_600);
    let end = start + Duration::from_millis(1500);
    let line = writer.write(&Told { event, count, start, end, several_clients: false });
    assert!(line.json.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{}", line.json);
    serde_json::from_str(&line.json).unwrap()
}

fn writer(names: bool) -> Writer {
    let labels = [("namespace".to_owned(), "demo".to_owned())];
    Writer::new("pod-1", &Labels::try_from(std::collections::BTreeMap::from(labels)).unwrap(), names)
}

#[test]
fn every_event_has_the_fields_by_which_the_schema_sorts_with_words_that_it_knows() {
    let writer = writer(true);
    for event in every_event() {
        let action = event.action();
        let json = written(&writer, event, 2);
        assert_eq!(json["ecs"]["version"], "8.17.0");
        assert_eq!(json["@timestamp"], "2027-01-01T00:00:01.500Z");
        assert_eq!(json["event"]["action"], action);
        assert!(action.len() <= 32, "{action} is too long for a MSGID");
        assert!(["event", "alert"].contains(&json["event"]["kind"].as_str().unwrap()));
        assert!(["success", "failure"].contains(&json["event"]["outcome"].as_str().unwrap()));
        let types: Vec<_> =
            json["event"]["type"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        // Each type is one that the schema expects beside one of the categories.
        for word in types {
            let expected =
                json["event"]["category"].as_array().unwrap().iter().any(|category| match category.as_str().unwrap() {
                    "network" => ["access", "allowed", "connection", "denied", "end", "info", "protocol", "start"]
                        .contains(&word),
                    "intrusion_detection" => ["allowed", "denied", "info"].contains(&word),
                    "configuration" => ["access", "change", "creation", "deletion", "info"].contains(&word),
                    "process" => ["access", "change", "end", "info", "start"].contains(&word),
                    category => panic!("{category} is no category of this program"),
                });
            assert!(expected, "{action}: {word}");
        }
        assert_eq!(json["dot_proxy"]["count"], 2);
        assert_eq!(json["labels"]["namespace"], "demo");
        assert_eq!(json["host"]["hostname"], "pod-1");
        assert!(json["message"].as_str().is_some_and(|message| message.len() > 10));
    }
}

#[test]
fn every_event_and_every_field_of_it_stands_in_the_document() {
    let document = include_str!("../../../../EVENTS.md");
    fn check(path: &str, value: &Value, document: &str) {
        match value {
            Value::Object(fields) if path != "labels" => {
                for (name, value) in fields {
                    check(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, document);
                }
            }
            _ => assert!(document.contains(&format!("`{path}`")), "{path} is not documented"),
        }
    }
    for event in every_event() {
        assert!(document.contains(&format!("`{}`", event.action())), "{} is not documented", event.action());
        check("", &written(&writer(true), event, 1), document);
    }
}

#[test]
fn no_two_events_have_the_same_id_be_it_of_one_run_or_of_two() {
    let (one, other) = (writer(false), writer(false));
    let id = |writer: &Writer| written(writer, Event::QueryPanicked { place: "lookup" }, 1)["event"]["id"].clone();
    let ids = [id(&one), id(&one), id(&other), id(&other)];
    for (index, id) in ids.iter().enumerate() {
        assert!(!ids[..index].contains(id), "{ids:?}");
    }
}

#[test]
fn a_client_is_told_with_its_port_and_of_several_none() {
    let misbehaved = || event("client-misbehaved");
    let json = written(&writer(false), misbehaved(), 1);
    assert_eq!(json["source"], json!({"ip": "127.0.0.1", "port": 40000}));
    let at = UNIX_EPOCH;
    let told = Told { event: misbehaved(), count: 9, start: at, end: at, several_clients: true };
    let json: Value = serde_json::from_str(&writer(false).write(&told).json).unwrap();
    assert_eq!((&json["source"], &json["dot_proxy"]["several_clients"]), (&Value::Null, &Value::Bool(true)));
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    assert_eq!(written(&writer(false), Event::ClientReadmitted { client: mapped }, 1)["source"]["ip"], "192.0.2.1");
}

#[test]
fn names_are_told_only_where_they_are_wanted() {
    let withheld = || event("name-withheld");
    let question = json!({"name": "web", "type": "AAAA"});
    assert_eq!(written(&writer(true), withheld(), 1)["dns"]["question"], question);
    assert!(!written(&writer(false), withheld(), 1).to_string().contains("web"));
}

#[test]
fn an_upstream_is_told_by_address_port_and_name() {
    let json = written(&writer(false), event("certificate-refused"), 1);
    assert_eq!(json["error"]["code"], "certificate-expired");
    assert_eq!(json["destination"]["ip"], "192.0.2.53");
    assert_eq!(json["destination"]["port"], 853);
    assert_eq!(json["destination"]["domain"], "dns.example");
    let https = destination("https://[2001:db8::1]:443/dns-query#dns.example");
    assert_eq!(https["ip"], "2001:db8::1");
    assert_eq!(destination("cloudflare"), json!({"address": "cloudflare"}));
}

#[test]
fn what_is_beyond_ascii_is_escaped_so_that_it_reads_back_the_same_and_long_texts_are_cut() {
    let reason = format!("ä \u{1F980} \u{7f} \n{}", "ö".repeat(2000));
    let event = Event::ConfigurationRefused { field: String::new(), reason: reason.clone() };
    let json = written(&writer(false), event, 1);
    let told = json["error"]["message"].as_str().unwrap();
    assert!(reason.starts_with(told) && (1000..=LONGEST_TEXT).contains(&told.len()));
}
