//! What a client sees when a server fails: time, and at worst SERVFAIL with the cause.

use std::time::Duration;

use hickory_proto::op::ResponseCode;

use crate::authority::{Authority, NAME};
use crate::client::{ask, extended_error};
use crate::load::Load;
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::{Server, unused_address};

#[tokio::test]
async fn a_query_outlives_its_connection() {
    let authority = Authority::new();
    let server =
        Server::tls_that(&authority, |_, count| if count == 1 { Reaction::Close } else { Reaction::Answer }).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    assert_eq!((server.connections(), server.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_connection_that_the_server_closes_when_idle_is_opened_again() {
    let authority = Authority::new();
    let closing = |name: &str, _| if name.starts_with("close") { Reaction::Close } else { Reaction::Answer };
    let server = Server::tls_that(&authority, closing).await;
    let proxy = Proxy::asking(&server, &authority);
    assert_eq!(ask(proxy.address, "close.example.com.").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
}

#[tokio::test]
async fn the_next_server_answers_when_the_first_cannot_be_reached() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let gone = unused_address();
    let proxy = Proxy::with(&[&format!("tls://{gone}#{NAME}"), &server.url()], &authority, "");
    assert_eq!(ask(proxy.address, "a.example.com.").await.answers.len(), 1);
    assert_eq!(proxy.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn the_next_server_answers_when_the_first_is_silent() {
    let authority = Authority::new();
    let silent = Server::tls_that(&authority, |_, _| Reaction::Silence).await;
    let server = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&silent.url(), &server.url()], &authority, "");
    assert_eq!(ask(proxy.address, "first.example.com.").await.answers.len(), 1);
    // The queries after it do not wait for the silent server again, though one now and then may look whether it is back.
    let outcomes = Load::of(proxy.address, 100, Duration::from_millis(5)).finished().await;
    outcomes.assert_all_right();
    outcomes.assert_none_later_than(Duration::from_millis(100));
    assert!(silent.asked().len() <= 10, "{:?}", silent.asked());
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_answers_once_it_is_back() {
    let authority = Authority::new();
    let address = unused_address();
    let proxy = Proxy::with(&[&format!("tls://{address}#{NAME}")], &authority, "");
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(extended_error(&reply).starts_with("connection-refused at tls://"));
    assert_eq!(proxy.admin("/readyz").await.0, 503);
    let _server = Server::tls_at(address, &authority, NAME, 2099, |_, _| Reaction::Answer).await;
    let back = async { while ask(proxy.address, "www.example.com.").await.answers.is_empty() {} };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("the proxy did not come back");
    assert_eq!(proxy.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_silent_upstream_ends_in_servfail_at_the_deadline() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::Silence).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "query: {deadlineMilliseconds: 600}");
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(extended_error(&reply).starts_with("query-timed-out at "));
}
