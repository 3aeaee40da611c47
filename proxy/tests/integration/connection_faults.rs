//! Connections that fail under the queries that are on them. The client notices time, and nothing else.

use std::net::TcpListener;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::time::Instant;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::blackhole::Blackhole;
use crate::client::{ask, extended_error};
use crate::load::Load;
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::{Server, unused_address};
use crate::wait::until;

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(2);

/// Of all queries to the server, each tenth meets the fault.
fn each_tenth(fault: Reaction) -> impl Fn(&str, usize) -> Reaction {
    move |_, count| if count % 10 == 0 { fault } else { Reaction::Answer }
}

/// Clients get right answers from a group of this server alone; the proxy is returned for its metrics.
async fn right_answers_of_this_server_alone(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Proxy {
    right_answers_to(200, EVERY, react).await
}

/// So many clients' queries, one every so often, get right answers from a group of this server alone.
async fn right_answers_to(
    queries: usize,
    every: Duration,
    react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static,
) -> Proxy {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, react).await;
    let proxy = Proxy::asking(&server, &authority);
    Load::of(proxy.address, queries, every).finished().await.assert_all_right();
    proxy
}

/// Clients get right answers from a group of this server and a healthy one, and the metrics tell the first one's trouble.
async fn right_answers_beside_a_healthy_server(first: &str, authority: &Authority, cause: &str) {
    let healthy = Server::tls(authority).await;
    let proxy = Proxy::with(&[first, &healthy.url()], authority, "");
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
    until_told(&proxy, first, cause).await;
}

/// Goes on asking until the metrics tell of a server's trouble.
async fn until_told(proxy: &Proxy, server: &str, cause: &str) {
    let mut count = 0;
    until(&format!("the metrics tell {cause}"), async || {
        count += 1;
        ask(proxy.address, &format!("more{count}.example.com.")).await;
        proxy.failures(server, cause).await > 0
    })
    .await;
}

#[tokio::test]
async fn no_query_is_lost_on_a_server_that_closes_after_every_answer() {
    // Each query costs a handshake, in a test both ends' and of slow code: asked faster, they would wait until the deadline.
    right_answers_to(100, 5 * EVERY, |_, _| Reaction::AnswerAndClose).await;
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_closes_while_queries_are_in_flight() {
    let proxy = right_answers_of_this_server_alone(each_tenth(Reaction::Close)).await;
    assert!(proxy.total("dot_proxy_upstream_failures_total").await > 0);
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_resets_its_connections() {
    let proxy = right_answers_of_this_server_alone(each_tenth(Reaction::Reset)).await;
    assert!(proxy.total("dot_proxy_upstream_failures_total").await > 0);
}

#[tokio::test]
async fn no_query_is_lost_when_an_answer_is_cut_short_and_the_connection_closed() {
    right_answers_of_this_server_alone(each_tenth(Reaction::CutShort)).await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_closes_under_every_query() {
    let authority = Authority::new();
    let closing = Server::tls_that(&authority, |_, _| Reaction::Close).await;
    right_answers_beside_a_healthy_server(&closing.url(), &authority, "connection-closed").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_resets_under_every_query() {
    let authority = Authority::new();
    let resetting = Server::tls_that(&authority, |_, _| Reaction::Reset).await;
    right_answers_beside_a_healthy_server(&resetting.url(), &authority, "connection-closed").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_cuts_every_answer_short() {
    let authority = Authority::new();
    let cutting = Server::tls_that(&authority, |_, _| Reaction::CutShort).await;
    right_answers_beside_a_healthy_server(&cutting.url(), &authority, "connection-closed").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_says_nothing_over_tls() {
    let authority = Authority::new();
    let silent = Server::tls_that(&authority, |_, _| Reaction::Silence).await;
    right_answers_beside_a_healthy_server(&silent.url(), &authority, "query-timed-out").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_accepts_and_says_nothing() {
    // The kernel accepts for who listens.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("tls://{}#{NAME}", listener.local_addr().unwrap());
    right_answers_beside_a_healthy_server(&mute, &Authority::new(), "connection-timed-out").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_swallows_what_is_sent_to_it() {
    let blackhole = Blackhole::new();
    right_answers_beside_a_healthy_server(&blackhole.url(), &Authority::new(), "connection-timed-out").await;
}

#[tokio::test]
async fn no_query_is_lost_when_one_of_two_servers_refuses_connections() {
    let refusing = format!("tls://{}#{NAME}", unused_address());
    right_answers_beside_a_healthy_server(&refusing, &Authority::new(), "connection-refused").await;
}

#[tokio::test]
async fn the_cause_is_told_when_the_only_server_accepts_and_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("tls://{}#{NAME}", listener.local_addr().unwrap());
    told_within_the_deadline(&mute, "connection-timed-out").await;
}

#[tokio::test]
async fn the_cause_is_told_when_the_only_server_swallows_what_is_sent_to_it() {
    let blackhole = Blackhole::new();
    told_within_the_deadline(&blackhole.url(), "connection-timed-out").await;
}

/// A query to this server ends in SERVFAIL at the deadline, and says why.
async fn told_within_the_deadline(server: &str, cause: &str) {
    let authority = Authority::new();
    let proxy = Proxy::with(&[server], &authority, "query: {deadlineMilliseconds: 500}");
    let began = Instant::now();
    proxy.fails(server, cause).await;
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_certificate_made_invalid_under_a_live_connection_counts_from_the_next_connection_on() {
    let authority = Authority::new();
    let server =
        Server::tls_that(
            &authority,
            |name, _| if name.starts_with("bye") { Reaction::AnswerAndClose } else { Reaction::Answer },
        )
        .await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "before.example.com.").await.answers.len(), 1);
    server.replaces_its_certificate(&authority, NAME, 2021);
    for name in ["live.example.com.", "bye.example.com."] {
        assert_eq!(ask(proxy.address, name).await.answers.len(), 1, "{name}");
    }
    until("the connection is closed", async || server.open_connections() == 0).await;
    let asked = server.asked().len();
    let reply = ask(proxy.address, "after.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_error(&reply), format!("certificate-expired at {}", server.url()));
    assert_eq!(server.asked().len(), asked);
    // Recovery is as sudden: a valid certificate again, and the next queries are answered.
    server.replaces_its_certificate(&authority, NAME, LAST_YEAR);
    until("queries are answered again", async || !ask(proxy.address, "again.example.com.").await.answers.is_empty())
        .await;
}

#[tokio::test]
async fn clients_of_two_servers_do_not_notice_that_the_certificate_of_one_was_made_invalid() {
    let authority = Authority::new();
    let (first, second) =
        (Server::tls_that(&authority, each_tenth(Reaction::Close)).await, Server::tls(&authority).await);
    // In order, since the faster one may be the second: then nobody connects to the first again for a minute.
    let written = Written { upstream: "strategy: ordered", ..Written::default() };
    let proxy = Proxy::written(&[&first.url(), &second.url()], &authority, &written);
    let load = Load::of(proxy.address, 200, EVERY);
    until("the first server is in use", async || !first.asked().is_empty()).await;
    first.replaces_its_certificate(&authority, "other.test", LAST_YEAR);
    load.finished().await.assert_all_right();
    until_told(&proxy, &first.url(), "certificate-name-mismatch").await;
}
