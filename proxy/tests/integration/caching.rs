//! What is kept: each kind of answer apart, refreshed while in use, given out stale when there is nothing better.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use crate::answers::{deny_name, is_right};
use crate::authority::Authority;
use crate::client::{ask, ask_this, ask_type, extended_error_in, message};
use crate::load::{Load, Outcomes};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;
use crate::wait::until;

/// A client notices no wait shorter than this.
const NOTICEABLE: Duration = Duration::from_millis(100);

/// What an extended error says of an answer whose TTL has ended, and of one that denies the name (RFC 8914 §4.4, §4.20).
const STALE: u16 = 3;
const STALE_NXDOMAIN: u16 = 19;

/// Longer than a TTL of one second.
const A_SECOND_AND_A_BIT: Duration = Duration::from_millis(1100);

#[tokio::test]
async fn answers_are_kept_apart_by_do_and_cd() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    for _ in 0..2 {
        for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut query = message(7, "www.example.com.", RecordType::A);
            query.edns.as_mut().unwrap().set_dnssec_ok(dnssec_ok);
            query.metadata.checking_disabled = checking_disabled;
            assert!(is_right(&ask_this(proxy.address, &query).await, query.queries[0].name()));
        }
    }
    let flags = |query: &Vec<u8>| {
        let query = Message::from_vec(query).unwrap();
        (query.edns.unwrap().flags().dnssec_ok, query.metadata.checking_disabled)
    };
    let asked: Vec<_> = server.queries().iter().map(flags).collect();
    assert_eq!(asked, [(false, false), (true, false), (false, true), (true, true)]);
}

#[tokio::test]
async fn a_failure_is_remembered_briefly() {
    let authority = Authority::new();
    let failing = |name: &str, count: usize| {
        let fails = name.starts_with("failing") && count < 100;
        if fails { Reaction::Altered(fail) } else { Reaction::Answer }
    };
    let server = Server::tls_that(&authority, failing).await;
    let proxy = Proxy::asking(&server, &authority);
    let failed = ask(proxy.address, "failing.example.com.").await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    let asked = server.asked().len();
    for _ in 0..20 {
        assert_eq!(ask(proxy.address, "failing.example.com.").await.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(server.asked().len(), asked);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the server is asked again", async || {
        ask(proxy.address, "failing.example.com.").await;
        server.asked().len() > asked + 1
    })
    .await;
}

fn fail(reply: &mut Message) {
    reply.answers.clear();
    reply.metadata.response_code = ResponseCode::ServFail;
}

#[tokio::test]
async fn an_answer_in_use_is_refreshed_before_it_ends_and_nobody_waits_for_it() {
    let authority = Authority::new();
    let slow_but_at_first =
        |_: &str, count: usize| if count == 1 { Reaction::Answer } else { Reaction::Late(Duration::from_millis(150)) };
    let server = Server::tls_that(&authority, slow_but_at_first).await;
    let proxy = Proxy::asking(&server, &authority);
    let name = |_| "ttl6-www.example.com.".to_owned();
    assert_eq!(ask(proxy.address, &name(0)).await.answers.len(), 1);
    // From well before until after the end of the first answer.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let outcomes = Load::asking(proxy.address, 250, Duration::from_millis(10), name).finished().await;
    outcomes.assert_all_right();
    outcomes.assert_none_later_than(NOTICEABLE);
    let replies = || outcomes.all.iter().map(|outcome| &outcome.reply.as_ref().unwrap().1);
    assert!(replies().all(|reply| extended_error_in(reply).is_none()), "an answer was stale");
    let refreshed = server.asked().len() - 1;
    assert!((1..=2).contains(&refreshed), "refreshed {refreshed} times");
}

#[tokio::test]
async fn an_answer_that_nobody_asks_for_again_is_not_refreshed() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "ttl1-www.example.com.").await.answers.len(), 1);
    tokio::time::sleep(A_SECOND_AND_A_BIT).await;
    assert_eq!(server.asked().len(), 1);
}

fn known_name(index: usize) -> String {
    format!("ttl1-known{}.example.com.", index % 20)
}

#[tokio::test]
async fn while_all_upstreams_are_away_known_names_are_answered_stale_and_afterwards_fresh() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let proxy = Proxy::with(&[&servers[0].url(), &servers[1].url()], &authority, "");
    for index in 0..20 {
        assert_eq!(ask(proxy.address, &known_name(index)).await.answers.len(), 1);
    }
    tokio::time::sleep(A_SECOND_AND_A_BIT).await;
    for server in &servers {
        server.goes_away().await;
    }
    let known = Load::asking(proxy.address, 180, Duration::from_millis(10), known_name);
    let others = Load::of(proxy.address, 270, Duration::from_millis(10));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for server in &servers {
        server.comes_back().await;
    }
    let back = Instant::now();
    let known = known.finished().await;
    known.assert_all_right();
    known.assert_none_later_than(NOTICEABLE);
    assert_stale(&known);
    let others = others.finished().await;
    others.assert_none_lost_or_wrong();
    others.assert_recovered_at_the_first_success_after(back);
    others.assert_success_soon_after(back);
    until("a known name is fresh", async || extended_error_in(&ask(proxy.address, &known_name(0)).await).is_none())
        .await;
}

fn assert_stale(outcomes: &Outcomes) {
    for outcome in &outcomes.all {
        let reply = &outcome.reply.as_ref().unwrap().1;
        assert_eq!(extended_error_in(reply).map(|(code, _)| code), Some(STALE), "{reply}");
        assert!((1..=30).contains(&reply.answers[0].ttl), "{reply}");
    }
}

#[tokio::test]
async fn when_the_upstream_dawdles_a_stale_answer_comes_before_the_client_gives_up() {
    let authority = Authority::new();
    let server =
        Server::tls_that(&authority, |_, count| if count == 1 { Reaction::Answer } else { Reaction::Silence }).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "ttl1-www.example.com.").await.answers.len(), 1);
    tokio::time::sleep(A_SECOND_AND_A_BIT).await;
    let outcomes =
        Load::asking(proxy.address, 10, Duration::from_millis(10), |_| "ttl1-www.example.com.".to_owned()).finished();
    let outcomes = outcomes.await;
    outcomes.assert_all_right();
    // RFC 8767 §5: the recommended time is 1.8 s.
    outcomes.assert_none_later_than(Duration::from_millis(1900));
    assert_stale(&outcomes);
}

#[tokio::test]
async fn a_name_that_did_not_exist_is_denied_stale() {
    let authority = Authority::new();
    let denying = |_: &str, _: usize| {
        Reaction::Altered(|reply| {
            deny_name(reply);
            reply.authorities[0].ttl = 1;
        })
    };
    let server = Server::tls_that(&authority, denying).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "www.example.com.").await.metadata.response_code, ResponseCode::NXDomain);
    tokio::time::sleep(A_SECOND_AND_A_BIT).await;
    server.goes_away().await;
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(extended_error_in(&reply).map(|(code, _)| code), Some(STALE_NXDOMAIN));
}

#[tokio::test]
async fn without_stale_seconds_nothing_is_answered_stale() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "cache: {staleSeconds: 0}");
    assert_eq!(ask(proxy.address, "ttl1-www.example.com.").await.answers.len(), 1);
    tokio::time::sleep(A_SECOND_AND_A_BIT).await;
    server.goes_away().await;
    assert_eq!(ask(proxy.address, "ttl1-www.example.com.").await.metadata.response_code, ResponseCode::ServFail);
}

/// A server's reaction: there is no `gone`, nor anything under it.
fn gone(name: &str, _: usize) -> Reaction {
    if name.contains(".gone.") || name.starts_with("gone.") { Reaction::Altered(deny_name) } else { Reaction::Answer }
}

#[tokio::test]
async fn under_a_public_name_that_does_not_exist_there_is_nothing() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, gone).await;
    let proxy = Proxy::asking(&server, &authority);
    for name in ["gone.example.com.", "below.gone.example.com.", "far.below.Gone.example.com."] {
        let reply = ask(proxy.address, name).await;
        assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1), "{reply}");
        assert!(reply.answers.is_empty() && reply.queries[0].name().to_ascii() == name, "{reply}");
    }
    let other_type = ask_type(proxy.address, "gone.example.com.", RecordType::AAAA).await;
    assert_eq!(other_type.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(server.asked(), ["gone.example.com."]);
    // Only whole labels count, and only what is below.
    for name in ["notgone.example.com.", "example.com."] {
        assert_eq!(ask(proxy.address, name).await.answers.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn under_a_cluster_name_that_does_not_exist_there_may_be_something() {
    let authority = Authority::new();
    let upstream = Server::tls(&authority).await;
    // As a cluster's DNS does: the name in between is denied, and what is below exists.
    let cluster_dns =
        Server::plain(
            |name, _| {
                if name == "gone.corp.example." { Reaction::Altered(deny_name) } else { Reaction::Answer }
            },
        )
        .await;
    let routes = format!("routes: [{{suffixes: [corp.example], servers: [\"udp://{}\"]}}]", cluster_dns.address);
    let proxy = Proxy::with(&[&upstream.url()], &authority, &routes);
    assert_eq!(ask(proxy.address, "gone.corp.example.").await.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(ask(proxy.address, "below.gone.corp.example.").await.answers.len(), 1);
}
