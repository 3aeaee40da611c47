//! Connections to upstreams: closed when idle, and open again before they are missed.

use std::time::Duration;

use hickory_proto::rr::rdata::opt::EdnsOption;
use tokio::time::Instant;

use crate::authority::Authority;
use crate::client::ask;
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::Server;
use crate::wait::until;

const CLOSED_AFTER_A_SECOND: Written<'_> = Written { listen: "", upstream: "idleSeconds: 1", more: "" };

#[tokio::test]
async fn an_idle_connection_is_closed_and_opened_again_at_the_first_sign_of_life() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::written(&[&server.url()], &authority, &CLOSED_AFTER_A_SECOND);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    let began = Instant::now();
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    assert!(began.elapsed() > Duration::from_millis(500), "closed after {:?}", began.elapsed());
    // What the cache answers needs no connection; but who asks once, asks again.
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the connection is open again", async || server.open_connections() == 1).await;
    assert_eq!(ask(proxy.address, "fresh.example.com.").await.answers.len(), 1);
    assert_eq!((server.connections(), server.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_connection_in_use_is_kept() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::written(&[&server.url()], &authority, &CLOSED_AFTER_A_SECOND);
    for index in 0..12 {
        assert_eq!(ask(proxy.address, &format!("n{index}.example.com.")).await.answers.len(), 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_query_that_finds_its_connection_closed_is_answered_on_a_fresh_one() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::written(&[&server.url()], &authority, &CLOSED_AFTER_A_SECOND);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    assert_eq!(ask(proxy.address, "fresh.example.com.").await.answers.len(), 1);
}

#[tokio::test]
async fn the_time_that_the_server_keeps_idle_connections_holds_where_it_is_shorter() {
    let authority = Authority::new();
    let for_half_a_second = Reaction::Altered(|reply| {
        // In units of 100 ms (RFC 7828 §3.1).
        reply.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(11, vec![0, 5]));
    });
    let server = Server::tls_that(&authority, move |_, _| for_half_a_second).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    let began = Instant::now();
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(3), "closed after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_closes_after_every_answer_is_not_connected_to_while_nobody_asks() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::AnswerAndClose).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.connections() <= 3, "{} connections for one query", server.connections());
}
