//! Groups of three, one of which is no good; and groups that are away altogether, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::time::Instant;

use crate::authority::{Authority, NAME};
use crate::blackhole::Blackhole;
use crate::client::{ask, extended_error};
use crate::load::{Load, Outcomes};
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::{Server, unused_address};
use crate::wait::until;

/// A client notices no wait shorter than this.
const NOTICEABLE: Duration = Duration::from_millis(100);

/// Three hundred queries in six hundred milliseconds to a group of a bad server and two good ones; what came of them, and
/// how many queries the proxy made of them.
async fn answers_beside_two_good_ones(bad: &str, strategy: &str, authority: &Authority) -> (Outcomes, u64) {
    let (second, third) = (Server::tls(authority).await, Server::tls(authority).await);
    let written = Written { upstream: &format!("strategy: {strategy}"), ..Written::default() };
    let proxy = Proxy::written(&[bad, &second.url(), &third.url()], authority, &written);
    // While little is known of any server, a query may take its time.
    for number in 0..10 {
        assert_eq!(ask(proxy.address, &format!("first{number}.example.com.")).await.answers.len(), 1);
    }
    let before = proxy.total("dot_proxy_upstream_queries_total").await;
    let outcomes = Load::of(proxy.address, 300, Duration::from_millis(2)).finished().await;
    (outcomes, proxy.total("dot_proxy_upstream_queries_total").await - before)
}

/// Whatever the strategy, no query is lost or late, and so many upstream queries for each are enough. Some are late where the machine was
/// late, too: then it is tried again.
async fn nobody_notices(bad: &str, authority: &Authority, enough: f64) {
    const ATTEMPTS: usize = 5;
    for strategy in ["fastest", "ordered", "round-robin"] {
        let (mut outcomes, mut asked) = answers_beside_two_good_ones(bad, strategy, authority).await;
        for _ in 1..ATTEMPTS {
            outcomes.assert_all_right();
            if outcomes.later_than(NOTICEABLE) == 0 || !outcomes.were_disturbed() {
                break;
            }
            (outcomes, asked) = answers_beside_two_good_ones(bad, strategy, authority).await;
        }
        outcomes.assert_all_right();
        outcomes.assert_none_later_than(NOTICEABLE);
        outcomes.assert_few_upstream_queries(asked, enough);
    }
}

#[tokio::test]
async fn one_slow_server_of_three_slows_hardly_anybody() {
    let authority = Authority::new();
    let slow = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(300))).await;
    let (outcomes, _) = answers_beside_two_good_ones(&slow.url(), "fastest", &authority).await;
    outcomes.assert_all_right();
    let late = outcomes.later_than(NOTICEABLE);
    assert!(late <= 15, "{late} of 300 were later than {NOTICEABLE:?}");
}

#[tokio::test]
async fn one_lossy_server_of_three_loses_no_query_and_makes_none_late() {
    let authority = Authority::new();
    let lossy = |_: &str, count: usize| if count * 7 % 10 < 3 { Reaction::Silence } else { Reaction::Answer };
    let lossy = Server::tls_that(&authority, lossy).await;
    nobody_notices(&lossy.url(), &authority, 1.5).await;
}

#[tokio::test]
async fn one_dead_server_of_three_that_refuses_connections_makes_no_query_late() {
    let gone = unused_address();
    nobody_notices(&format!("tls://{gone}#{NAME}"), &Authority::new(), 1.1).await;
}

#[tokio::test]
async fn one_dead_server_of_three_that_swallows_everything_makes_no_query_late() {
    let blackhole = Blackhole::new();
    nobody_notices(&blackhole.url(), &Authority::new(), 1.1).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_under_load_makes_no_query_late_whatever_the_strategy() {
    for strategy in ["fastest", "ordered", "round-robin"] {
        let authority = Authority::new();
        let silent = Arc::new(AtomicBool::new(false));
        let first = {
            let silent = Arc::clone(&silent);
            move |_: &str, _: usize| if silent.load(Ordering::SeqCst) { Reaction::Silence } else { Reaction::Answer }
        };
        let (first, second) = (Server::tls_that(&authority, first).await, Server::tls(&authority).await);
        let written = Written { upstream: &format!("strategy: {strategy}"), ..Written::default() };
        let proxy = Proxy::written(&[&first.url(), &second.url()], &authority, &written);
        let load = Load::of(proxy.address, 200, Duration::from_millis(5));
        tokio::time::sleep(Duration::from_millis(400)).await;
        silent.store(true, Ordering::SeqCst);
        let outcomes = load.finished().await;
        outcomes.assert_all_right();
        outcomes.assert_none_later_than(NOTICEABLE);
        outcomes.assert_few_upstream_queries(proxy.total("dot_proxy_upstream_queries_total").await, 1.1);
    }
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_costs_nobody_an_answer() {
    let authority = Authority::new();
    let (first, second) = (Server::tls(&authority).await, Server::tls(&authority).await);
    let proxy = Proxy::with(&[&first.url(), &second.url()], &authority, "");
    let load = Load::of(proxy.address, 400, Duration::from_millis(3));
    for server in [&first, &second] {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.goes_away().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.comes_back().await;
    }
    let outcomes = load.finished().await;
    outcomes.assert_all_right();
    outcomes.assert_none_later_than(NOTICEABLE);
}

#[tokio::test]
async fn when_all_servers_are_back_the_first_success_ends_the_failures() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await, Server::tls(&authority).await];
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let proxy = Proxy::with(&urls, &authority, "");
    assert_eq!(ask(proxy.address, "before.example.com.").await.answers.len(), 1);
    for server in &servers {
        server.goes_away().await;
    }
    let load = Load::of(proxy.address, 500, Duration::from_millis(4));
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(proxy.admin("/readyz").await.0, 503);
    for server in &servers {
        server.comes_back().await;
    }
    let back = Instant::now();
    let outcomes = load.finished().await;
    outcomes.assert_none_lost_or_wrong();
    outcomes.assert_recovered_at_the_first_success_after(back);
    outcomes.assert_success_soon_after(back);
    assert_eq!(proxy.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn while_all_servers_refuse_clients_are_told_at_once() {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await];
    let proxy = Proxy::with(&[&servers[0].url(), &servers[1].url()], &authority, "");
    assert_eq!(ask(proxy.address, "before.example.com.").await.answers.len(), 1);
    for server in &servers {
        server.goes_away().await;
    }
    until("the first query fails", async || ask(proxy.address, "first.example.com.").await.answers.is_empty()).await;
    let outcomes = Load::of(proxy.address, 50, Duration::from_millis(5)).finished().await;
    assert!(outcomes.all.iter().all(crate::load::Outcome::has_failed));
    outcomes.assert_none_later_than(NOTICEABLE);
    let reply = ask(proxy.address, "last.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(extended_error(&reply).starts_with("connection-refused at tls://"), "{}", extended_error(&reply));
}
