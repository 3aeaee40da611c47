//! DNS over HTTPS (RFC 8484): what is asked, what is taken as an answer, and what a client notices of faults.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use h2::Reason;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use hyper::Method;
use tokio::time::Instant;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::client::{ask, extended_error};
use crate::https_server::{Act, Asked, HttpsServer};
use crate::load::Load;
use crate::proxy::{Proxy, Written};
use crate::server::Server;
use crate::wait::until;

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(2);

/// Twenty handshakes, one after the other, may take a busy machine longer than a query's usual time.
const PATIENT: &str = "query: {deadlineMilliseconds: 9000}";

/// Clients get right answers from a group of a server that reacts so, and no other; it and the proxy are returned.
async fn right_answers_of_this_server_alone(
    react: impl Fn(&str, usize) -> Act + Send + Sync + 'static,
) -> (HttpsServer, Proxy) {
    let authority = Authority::new();
    let server = HttpsServer::that(&authority, react).await;
    let proxy = Proxy::with(&[&server.url()], &authority, PATIENT);
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
    (server, proxy)
}

/// Of all requests to the server, each tenth meets the fault.
fn each_tenth(fault: Act) -> impl Fn(&str, usize) -> Act {
    move |_, count| if count % 10 == 0 { fault } else { Act::Answer }
}

fn headers(asked: &Asked) -> Vec<(&str, &str)> {
    asked.head.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

/// Each tenth name meets the fault when it is asked for the first time.
fn each_tenth_name_once(fault: Act) -> impl Fn(&str, usize) -> Act {
    let met = Mutex::new(HashSet::new());
    move |name, _| {
        let meets = name.contains("0.") && met.lock().unwrap().insert(name.to_owned());
        if meets { fault } else { Act::Answer }
    }
}

#[tokio::test]
async fn a_query_is_a_padded_post_that_tells_nothing_of_the_client() {
    let authority = Authority::new();
    let server = HttpsServer::that(&authority, |_, _| Act::Answer).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "");
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    let asked = &server.asked()[0];
    let uri = format!("https://{NAME}:{}/dns-query", server.address.port());
    assert_eq!((asked.head.method(), asked.head.uri().to_string()), (&Method::POST, uri));
    let length = asked.message.len().to_string();
    assert_eq!(
        headers(asked),
        [
            ("accept", "application/dns-message"),
            ("content-type", "application/dns-message"),
            ("content-length", length.as_str())
        ]
    );
    let query = Message::from_vec(&asked.message).unwrap();
    let options = query.edns.as_ref().unwrap().options().as_ref();
    assert_eq!((query.metadata.id, asked.message.len() % 128), (0, 0));
    assert_eq!(options.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [EdnsCode::Padding]);
}

#[tokio::test]
async fn a_query_is_a_get_where_that_was_configured() {
    let authority = Authority::new();
    let server = HttpsServer::that(&authority, |_, _| Act::Answer).await;
    let written = Written { upstream: "httpMethod: get", ..Written::default() };
    let proxy = Proxy::written(&[&server.url()], &authority, &written);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    let asked = &server.asked()[0];
    assert_eq!((asked.head.method(), asked.head.uri().path()), (&Method::GET, "/dns-query"));
    assert_eq!(headers(asked), [("accept", "application/dns-message")]);
    assert_eq!(Message::from_vec(&asked.message).unwrap().metadata.id, 0);
}

#[tokio::test]
async fn a_server_that_takes_no_post_is_asked_by_get() {
    for status in [405, 501] {
        let authority = Authority::new();
        let react = move |_: &str, count| if count == 1 { Act::Status(status, &[]) } else { Act::Answer };
        let server = HttpsServer::that(&authority, react).await;
        let proxy = Proxy::with(&[&server.url()], &authority, "");
        for name in ["one.example.com.", "two.example.com."] {
            assert_eq!(ask(proxy.address, name).await.answers.len(), 1);
        }
        let methods: Vec<_> = server.asked().iter().map(|asked| asked.head.method().clone()).collect();
        assert_eq!(methods, [Method::POST, Method::GET, Method::GET]);
        assert_eq!(proxy.total("dot_proxy_upstream_failures_total").await, 0);
    }
}

#[tokio::test]
async fn all_queries_share_one_connection_and_none_waits_for_another() {
    let slow = |_: &str, count: usize| {
        if count.is_multiple_of(4) { Act::Late(Duration::from_millis(100)) } else { Act::Answer }
    };
    let (server, _) = right_answers_of_this_server_alone(slow).await;
    // On a busy machine an answer may be so late that it is looked for on a fresh connection too.
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test]
async fn an_answer_lives_no_longer_than_http_says() {
    for (headers, ttl) in [
        (&[][..], 300),
        (&[("cache-control", "max-age=60")], 60),
        (&[("cache-control", "max-age=600")], 300),
        (&[("age", "100")], 200),
        (&[("cache-control", "max-age=250"), ("age", "100")], 150),
    ] {
        let authority = Authority::new();
        let server = HttpsServer::that(&authority, move |_, _| Act::With(headers)).await;
        let proxy = Proxy::with(&[&server.url()], &authority, "");
        assert_eq!(ask(proxy.address, "www.example.com.").await.answers[0].ttl, ttl, "{headers:?}");
    }
}

#[tokio::test]
async fn a_connection_is_closed_when_idle_and_open_again_before_it_is_missed() {
    let authority = Authority::new();
    let server = HttpsServer::that(&authority, |_, _| Act::Answer).await;
    let written = Written { upstream: "idleSeconds: 1", ..Written::default() };
    let proxy = Proxy::written(&[&server.url()], &authority, &written);
    until("the connection is open before a query", async || server.open_connections() == 1).await;
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    // The cache answers, and the connection is opened for who asks next.
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the connection is open again", async || server.open_connections() == 1).await;
    assert_eq!(server.asked().len(), 1);
}

/// This server gets no query, and the client is told why.
async fn refused(tls: rustls::ServerConfig, trusted: &Authority, cause: &str) {
    let server = HttpsServer::with_tls(tls, |_, _| Act::Answer).await;
    let proxy = Proxy::with(&[&server.url()], trusted, "");
    proxy.fails(&server.url(), cause).await;
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_gets_no_query() {
    let (authority, other) = (Authority::new(), Authority::new());
    refused(authority.tls("other.test", LAST_YEAR, &["h2"]), &authority, "certificate-name-mismatch").await;
    refused(authority.tls(NAME, LAST_YEAR, &["h2"]), &other, "certificate-unknown-issuer").await;
    refused(authority.tls(NAME, 2021, &["h2"]), &authority, "certificate-expired").await;
}

#[tokio::test]
async fn a_server_that_speaks_no_http_2_gets_no_query() {
    let authority = Authority::new();
    refused(authority.tls(NAME, LAST_YEAR, &["http/1.1"]), &authority, "tls-handshake-failed").await;
    refused(authority.tls(NAME, LAST_YEAR, &[]), &authority, "tls-handshake-failed").await;
}

#[tokio::test]
async fn pins_and_the_client_s_certificate_count_as_they_do_over_tls() {
    let authority = Authority::new();
    let server = HttpsServer::with_tls(authority.tls_for_known_clients(&["h2"]), |_, _| Act::Answer).await;
    let client = authority.client_files();
    let no_key = "pins: [sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=]";
    for (upstream, answered) in [("", false), (client.written().as_str(), true), (no_key, false)] {
        let written = Written { upstream, more: "query: {deadlineMilliseconds: 1000}", ..Written::default() };
        let proxy = Proxy::written(&[&server.url()], &authority, &written);
        let before = server.asked().len();
        let reply = ask(proxy.address, "www.example.com.").await;
        assert_eq!(
            (!reply.answers.is_empty(), server.asked().len() > before),
            (answered, answered),
            "{upstream}: {reply}"
        );
        if upstream == no_key {
            assert_eq!(extended_error(&reply), format!("certificate-pin-mismatch at {}", server.url()));
        }
    }
}

/// What this server sends is not taken as an answer, and the client is told why.
async fn not_taken(act: Act, cause: &str) {
    let authority = Authority::new();
    let server = HttpsServer::that(&authority, move |_, _| act).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "query: {deadlineMilliseconds: 1000}");
    proxy.fails(&server.url(), cause).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_other_status_is_an_answer() {
    for act in [
        Act::Status(301, &[("location", "https://127.0.0.1/")]),
        Act::Status(307, &[("location", "http://127.0.0.1/dns-query")]),
        Act::Status(404, &[]),
        Act::Status(500, &[]),
    ] {
        not_taken(act, "http-status-unexpected").await;
    }
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_not_taken_as_one() {
    for act in [
        Act::As("application/dns-json"),
        Act::As("text/html"),
        Act::With(&[("content-encoding", "gzip")]),
        Act::Altered(|reply| reply.metadata.id = 7),
        Act::Altered(|reply| {
            reply.queries[0].set_query_type(RecordType::AAAA);
        }),
        Act::Octets(5),
        Act::Octets(65_536),
    ] {
        not_taken(act, "response-malformed").await;
    }
}

#[tokio::test]
async fn a_busy_server_is_left_alone_as_long_as_it_asks_for() {
    for status in [429, 503] {
        let authority = Authority::new();
        let busy =
            move |_: &str, count| if count == 1 { Act::Status(status, &[("retry-after", "2")]) } else { Act::Answer };
        let server = HttpsServer::that(&authority, busy).await;
        let proxy = Proxy::with(&[&server.url()], &authority, "cache: {staleSeconds: 0}");
        let began = Instant::now();
        for name in ["one.example.com.", "two.example.com."] {
            let reply = ask(proxy.address, name).await;
            assert_eq!(extended_error(&reply), format!("server-busy at {}", server.url()));
        }
        assert_eq!(server.asked().len(), 1);
        let mut count = 0;
        until("the server is asked again", async || {
            count += 1;
            !ask(proxy.address, &format!("n{count}.example.com.")).await.answers.is_empty()
        })
        .await;
        assert!(began.elapsed() >= Duration::from_secs(2), "after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn another_server_answers_in_place_of_a_busy_one_even_over_another_transport() {
    let authority = Authority::new();
    let busy = HttpsServer::that(&authority, |_, _| Act::Status(429, &[("retry-after", "60")])).await;
    let other = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&busy.url(), &other.url()], &authority, "");
    assert_eq!(ask(proxy.address, "first.example.com.").await.answers.len(), 1);
    Load::of(proxy.address, 100, EVERY).finished().await.assert_all_right();
    assert_eq!(busy.asked().len(), 1);
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_goes_away_with_streams_open() {
    let (server, proxy) = right_answers_of_this_server_alone(each_tenth(Act::GoAway)).await;
    assert!(server.connections() > 5, "{} connections", server.connections());
    assert!(proxy.failures(&server.url(), "connection-closed").await > 0);
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_goes_away_in_peace() {
    let (server, _) = right_answers_of_this_server_alone(each_tenth(Act::GoAwayInPeace)).await;
    assert!(server.connections() > 5, "{} connections", server.connections());
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_resets_streams() {
    for reason in [Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR] {
        let (server, _) = right_answers_of_this_server_alone(each_tenth_name_once(Act::Reset(reason))).await;
        assert!(server.connections() <= 3, "{} connections", server.connections());
    }
}

#[tokio::test]
async fn no_query_is_lost_when_the_connection_is_lost_under_open_streams() {
    let (server, _) = right_answers_of_this_server_alone(each_tenth(Act::Close)).await;
    assert!(server.connections() > 5, "{} connections", server.connections());
}

#[tokio::test]
async fn a_server_that_resets_every_stream_is_told_and_not_asked_without_end() {
    not_taken(Act::Reset(Reason::INTERNAL_ERROR), "stream-reset").await;
}

#[tokio::test]
async fn a_server_that_closes_under_every_request_is_told_and_not_asked_without_end() {
    not_taken(Act::Close, "connection-closed").await;
    not_taken(Act::GoAway, "connection-closed").await;
}

#[tokio::test]
async fn a_silent_server_costs_nobody_an_answer_beside_a_healthy_one() {
    let authority = Authority::new();
    let silent = HttpsServer::that(&authority, |_, _| Act::Silence).await;
    let healthy = HttpsServer::that(&authority, |_, _| Act::Answer).await;
    let proxy = Proxy::with(&[&silent.url(), &healthy.url()], &authority, "");
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
    assert!(silent.asked().len() < 60, "asked {} times", silent.asked().len());
}
