//! At a bound the newest is turned away at once, counted, and what is in flight survives.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::answers::{UNKNOWN_TYPE, is_right};
use crate::authority::Authority;
use crate::client::{ask, ask_over_tcp, extended_error, message, query, receive, send_all};
use crate::conversation::frame;
use crate::load::Load;
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

#[tokio::test]
async fn queries_beyond_those_in_flight_are_answered_servfail_at_once_and_counted() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(500))).await;
    // Of which one, an eighth, is for connections.
    let proxy = Proxy::with(&[&server.url()], &authority, "query: {inFlight: 9}");
    let outcomes = Load::of(proxy.address, 30, Duration::from_millis(2)).finished().await;
    let (right, failed): (Vec<_>, Vec<_>) = outcomes.all.iter().partition(|outcome| outcome.is_right());
    assert_eq!((right.len(), failed.len()), (8, 22));
    for outcome in failed {
        assert!(outcome.has_failed() && outcome.latency() < Duration::from_millis(300), "{:?}", outcome.latency());
        let cause = extended_error(&outcome.reply.as_ref().unwrap().1);
        assert!(cause.contains("overload"), "{cause}");
    }
    assert_eq!(proxy.metric("dot_proxy_dropped_total{reason=\"overload\"}").await, 22);
    assert_eq!(ask(proxy.address, "afterwards.example.com.").await.answers.len(), 1);
}

#[tokio::test]
async fn three_hundred_queries_on_one_connection_are_answered_as_their_answers_come() {
    let authority = Authority::new();
    let late = |_: &str, count: usize| Reaction::Late(Duration::from_millis(count as u64 * 7919 % 50));
    let server = Server::tls_that(&authority, late).await;
    let proxy = Proxy::asking(&server, &authority);
    let queries: Vec<_> = (0..300).map(|id| message(id, &format!("n{id}.example.com."), RecordType::A)).collect();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let bytes: Vec<_> = queries.iter().map(|query| query.to_vec().unwrap()).collect();
    send_all(&mut stream, &bytes).await;
    let mut order = Vec::new();
    for _ in 0..300 {
        let reply = receive(&mut stream).await.unwrap();
        assert!(is_right(&reply, queries[usize::from(reply.metadata.id)].queries[0].name()), "{reply}");
        order.push(reply.metadata.id);
    }
    assert!(!order.is_sorted(), "the replies were held until their turn");
    order.sort_unstable();
    assert_eq!(order, (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_takes_no_replies_hinders_nobody_else() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let large = message(7, "www.example.com.", UNKNOWN_TYPE);
    assert_eq!(ask_over_tcp(proxy.address, &large).await.answers.len(), 1);
    // The same a thousand times, from the cache: 64 MiB, far more than the sockets hold.
    let mut greedy = TcpStream::connect(proxy.address).await.unwrap();
    let queries: Vec<u8> = (0..1000).flat_map(|id| frame(&query(id, "www.example.com.", UNKNOWN_TYPE))).collect();
    let asking = tokio::spawn(async move {
        let _ = greedy.write_all(&queries).await; // it may be stopped, or let go
        greedy
    });
    let outcomes = Load::of(proxy.address, 100, Duration::from_millis(2)).finished().await;
    outcomes.assert_all_right();
    outcomes.assert_none_later_than(Duration::from_millis(100));
    asking.abort();
}
