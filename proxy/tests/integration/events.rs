//! Events, as a real collector receives them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy::config::event_settings;
use dot_proxy::events::{Carriers, Event, Events};
use dot_proxy::upstream::cause::Cause;
use dot_proxy_config::Config;
use prometheus_client::registry::Registry;

use crate::authority::Authority;
use crate::client::ask;
use crate::proxy::Proxy;
use crate::rsyslog::{Message, NAME, Over, Rsyslog};
use crate::server::Server;
use crate::wait::until;

/// Events that wait for the collector at most.
const BUFFER: usize = 64;

/// What tells events, with what it counts.
struct Telling {
    events: Events,
    carriers: Carriers,
    registry: Registry,
}

impl Telling {
    /// To the collector at this URL, if it proves its name by this authority.
    fn to(url: &str, authority: &Authority, more: &str) -> Self {
        let ca = if url.starts_with("tls") { format!("ca: {:?},", authority.pem()) } else { String::new() };
        let yaml = format!("events: {{buffer: {BUFFER}, syslog: {{server: {url:?}, {ca} {more}}}}}");
        let config = Config::from_yaml(&yaml).unwrap();
        let mut registry = Registry::default();
        let settings = event_settings(&config.events).unwrap_or_else(|error| panic!("{error}"));
        let (events, carriers) = Events::start(settings, &mut registry);
        Self { events, carriers, registry }
    }

    /// Tells of something that no earlier event is summed with: each time it is another server.
    fn tell(&self, number: usize) {
        let server = format!("tls://192.0.2.1:853#n{number}.example").into();
        self.events.emit(Event::CertificateRefused {
            server,
            group: Arc::from("upstream"),
            cause: Cause::CertificateExpired,
        });
    }

    fn counted(&self, metric: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let values = text.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum()
    }

    /// Whether counts have stood still for a while.
    async fn is_quiet(&self) -> bool {
        let counted = || (self.counted(DELIVERED), self.counted(DROPPED), self.counted("syslog_failures_total"));
        let before = counted();
        tokio::time::sleep(Duration::from_millis(50)).await;
        before == counted()
    }

    async fn has_counted(&self, metric: &str, count: u64) {
        until(&format!("{metric} is {count}"), async || self.counted(metric) >= count).await;
        assert_eq!(self.counted(metric), count, "{metric}");
    }
}

const REFUSED: &str = "certificate-refused";
const DELIVERED: &str = "events_delivered_total{destination=\"syslog\"}";
const DROPPED: &str = "events_dropped_total{destination=\"syslog\"}";

/// The numbers that [`Telling::tell`] was given.
fn numbers(messages: &[Message]) -> BTreeSet<usize> {
    let name = |message: &Message| message.json["destination"]["domain"].as_str().map(str::to_owned);
    messages.iter().filter_map(name).map(|name| name[1..].strip_suffix(".example").unwrap().parse().unwrap()).collect()
}

/// How many events the collector was told it has lost.
fn told_as_dropped(messages: &[Message]) -> u64 {
    let told = messages.iter().filter(|message| message.json["dot_proxy"]["destination"] == "syslog");
    told.map(|message| message.json["dot_proxy"]["count"].as_u64().unwrap()).sum()
}

fn sequences(messages: &[Message]) -> BTreeSet<u64> {
    let sequence = |message: &Message| message.header[4].split('"').nth(1).unwrap().parse().unwrap();
    messages.iter().map(sequence).collect()
}

#[tokio::test]
async fn while_the_collector_is_up_nothing_is_lost_over_tls_or_tcp() {
    let authority = Authority::new();
    for over in [Over::Tls, Over::Tcp] {
        let rsyslog = Rsyslog::running(over, &authority).await;
        let telling = Telling::to(&rsyslog.url(), &authority, "");
        for number in 0..200 {
            telling.tell(number);
            // As fast as it is taken, so that the buffer holds it.
            until("there is room", async || rsyslog.received() + BUFFER / 2 > number).await;
        }
        let messages = rsyslog.has(200, REFUSED).await;
        assert_eq!(numbers(&messages), (0..200).collect());
        assert_eq!(sequences(&messages), (1..=200).collect());
        let host = messages[0].json["host"]["hostname"].as_str().unwrap();
        assert_eq!(messages[0].header[..4], ["83", host, "dot-proxy", REFUSED]);
        telling.has_counted(DELIVERED, 200).await;
        assert_eq!((telling.counted(DROPPED), rsyslog.received()), (0, 200));
    }
}

#[tokio::test]
async fn while_the_collector_is_down_the_buffer_waits_and_what_is_lost_is_counted_exactly() {
    const TOLD: usize = 300;
    let authority = Authority::new();
    let mut rsyslog = Rsyslog::running(Over::Tls, &authority).await;
    let telling = Telling::to(&rsyslog.url(), &authority, "");
    telling.tell(0);
    telling.has_counted(DELIVERED, 1).await;
    for round in 0..2 {
        rsyslog.stop();
        let (first, before) = (1 + round * TOLD, telling.counted(DROPPED));
        (first..first + TOLD).for_each(|number| telling.tell(number));
        until("the buffer is full", async || telling.counted(DROPPED) > before).await;
        until("the task has nothing left", async || telling.is_quiet().await).await;
        rsyslog.start().await;
        let dropped = telling.counted(DROPPED);
        until("all that was lost is told", async || told_as_dropped(&rsyslog.messages()) >= dropped).await;
        assert_eq!((told_as_dropped(&rsyslog.messages()), telling.counted(DROPPED)), (dropped, dropped));
        let kept = TOLD - usize::try_from(dropped - before).unwrap();
        assert!((BUFFER..=2 * BUFFER).contains(&kept), "{kept} waited");
        let received = numbers(&rsyslog.messages());
        assert_eq!(received.range(first..).count(), kept, "{received:?}");
    }
    let messages = rsyslog.messages();
    let (least, most) = (sequences(&messages).first().copied(), sequences(&messages).last().copied());
    let missing = most.unwrap() - least.unwrap() + 1 - messages.len() as u64;
    assert_eq!((least, missing), (Some(1), telling.counted(DROPPED)));
    telling.has_counted(DELIVERED, messages.len() as u64).await;
}

#[tokio::test]
async fn a_collector_that_comes_later_gets_what_happened_before() {
    let authority = Authority::new();
    let mut rsyslog = Rsyslog::stopped(Over::Tls, &authority).await;
    let telling = Telling::to(&rsyslog.url(), &authority, "");
    (0..10).for_each(|number| telling.tell(number));
    until("it was tried", async || telling.counted("syslog_failures_total{cause=\"connection-refused\"}") > 1).await;
    rsyslog.start().await;
    assert_eq!(numbers(&rsyslog.has(10, REFUSED).await), (0..10).collect());
}

#[tokio::test]
async fn what_a_collector_had_not_read_when_it_was_killed_is_sent_again() {
    let authority = Authority::new();
    for over in [Over::Tls, Over::Tcp] {
        let mut rsyslog = Rsyslog::running(over, &authority).await;
        let telling = Telling::to(&rsyslog.url(), &authority, "");
        telling.tell(0);
        telling.has_counted(DELIVERED, 1).await;
        // Delivered is what it has read; killed, it would lose what it has not written down yet.
        rsyslog.has(1, REFUSED).await;
        rsyslog.freeze().await;
        (1..=20).for_each(|number| telling.tell(number));
        // The kernel takes them, and nobody reads them.
        until("they were sent", async || telling.is_quiet().await).await;
        rsyslog.kill();
        rsyslog.start().await;
        assert_eq!(numbers(&rsyslog.has(21, REFUSED).await), (0..=20).collect());
        telling.has_counted(DELIVERED, 21).await;
    }
}

#[tokio::test]
async fn a_collector_that_does_not_prove_its_name_by_the_right_authority_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let rsyslog = Rsyslog::running(Over::Tls, &authority).await;
    let another_name = rsyslog.url().replace(NAME, "other.test");
    for (url, trusted, cause) in [
        (&another_name, &authority, "certificate-name-mismatch"),
        (&rsyslog.url(), &other, "certificate-unknown-issuer"),
    ] {
        let telling = Telling::to(url, trusted, "");
        telling.tell(0);
        let failures = format!("syslog_failures_total{{cause=\"{cause}\"}}");
        until("it was tried again", async || telling.counted(&failures) > 2).await;
        assert_eq!((telling.counted(DELIVERED), rsyslog.received()), (0, 0));
    }
}

#[tokio::test]
async fn a_collector_that_wants_to_know_its_clients_takes_events_from_those_it_knows() {
    let authority = Authority::new();
    let rsyslog = Rsyslog::running(Over::MutualTls, &authority).await;
    let unknown = Telling::to(&rsyslog.url(), &authority, "");
    unknown.tell(0);
    until("it was turned away again", async || unknown.counted("syslog_failures_total") > 2).await;
    assert_eq!((unknown.counted(DELIVERED), rsyslog.received()), (0, 0));
    let files = rsyslog.client_certificate();
    let known = Telling::to(&rsyslog.url(), &authority, &files);
    known.tell(1);
    assert_eq!(numbers(&rsyslog.has(1, REFUSED).await), [1].into());
}

#[tokio::test]
async fn what_happened_last_is_told_before_the_end_and_repetitions_are_summed() {
    let authority = Authority::new();
    let rsyslog = Rsyslog::running(Over::Tls, &authority).await;
    let Telling { events, carriers, .. } = Telling::to(&rsyslog.url(), &authority, "");
    let panicked = || events.emit(Event::QueryPanicked { place: "lookup" });
    panicked();
    rsyslog.has(1, "query-panicked").await;
    (1..1000).for_each(|_| panicked());
    carriers.finish().await;
    let counts = || -> Vec<u64> {
        rsyslog.messages().iter().map(|message| message.json["dot_proxy"]["count"].as_u64().unwrap()).collect()
    };
    until("all are told", async || counts().iter().sum::<u64>() == 1000).await;
    // Three, if it took more than a second until the first had arrived.
    assert!(counts()[0] == 1 && counts().len() <= 3, "{:?}", counts());
}

#[tokio::test]
async fn a_proxy_tells_of_an_upstream_that_is_not_who_it_should_be_and_of_names_it_kept_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let rsyslog = Rsyslog::running(Over::Tls, &authority).await;
    let impostor = Server::tls(&other).await;
    let ca = authority.pem();
    let more = format!(
        "cluster: {{domain: cluster.local}}\nroutes: [{{suffixes: [cluster.local], servers: [\"udp://127.0.0.1:1\"]}}]\nevents: {{names: true, syslog: {{server: {:?}, ca: {ca:?}}}}}",
        rsyslog.url()
    );
    let proxy = Proxy::with(&[&impostor.url()], &authority, &more);
    ask(proxy.address, "www.example.com.").await;
    ask(proxy.address, "some-service.").await;
    ask(proxy.address, "web.demo.svc.cluster.local.").await;
    let refused = &rsyslog.has(1, REFUSED).await[0].json;
    assert_eq!(refused["error"]["code"], "certificate-unknown-issuer");
    assert_eq!(refused["dot_proxy"]["upstream"]["server"], impostor.url());
    let mut withheld: Vec<_> = rsyslog.has(2, "name-withheld").await.into_iter().map(|message| message.json).collect();
    withheld.sort_by_key(|json| json["rule"]["name"].to_string());
    assert_eq!(withheld[0]["dns"]["question"]["name"], "web.demo.svc.cluster.local");
    assert_eq!(withheld[0]["rule"]["name"], "route-unavailable");
    assert_eq!(withheld[1]["dns"]["question"]["name"], "some-service");
    assert_eq!(withheld[1]["rule"]["name"], "single-label");
    assert!(proxy.stop().await);
}
