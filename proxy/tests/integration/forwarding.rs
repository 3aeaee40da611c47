//! What a client sees when all is well.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::client::{ask, ask_type, query, receive, send};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

#[tokio::test]
async fn a_query_is_answered_over_udp_and_the_next_one_from_the_cache() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    for _ in 0..2 {
        let reply = ask(proxy.address, "www.example.com.").await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers.len(), 1);
    }
    assert_eq!(server.asked(), ["www.example.com."]);
    assert_eq!(proxy.metric("dot_proxy_cache_hits_total").await, 1);
    assert_eq!(proxy.metric("dot_proxy_queries_total{protocol=\"udp\"}").await, 2);
}

#[tokio::test]
async fn negative_answers_are_cached_too() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    for _ in 0..2 {
        let reply = ask_type(proxy.address, "www.example.com.", RecordType::MX).await;
        assert!(reply.answers.is_empty() && reply.authorities.len() == 1);
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn many_queries_share_one_connection_whatever_the_order_of_their_answers() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::AnswerInReverse(50)).await;
    let proxy = Proxy::asking(&server, &authority);
    let names: Vec<_> = (0..50).map(|index| format!("n{index}.example.com.")).collect();
    let asking = names.iter().map(|name| {
        let (address, name) = (proxy.address, name.clone());
        tokio::spawn(async move { (ask(address, &name).await, name) })
    });
    for asked in asking.collect::<Vec<_>>() {
        let (reply, name) = asked.await.unwrap();
        assert_eq!(reply.answers[0].name.to_string(), name);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_answer_too_large_for_udp_is_truncated_there_and_whole_over_tcp() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let reply = ask(proxy.address, "large.example.com.").await;
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, &query(1, "large.example.com.", RecordType::A)).await;
    let reply = receive(&mut stream).await.unwrap();
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 100));
}

#[tokio::test]
async fn the_connection_is_open_before_the_first_query() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let _proxy = Proxy::asking(&server, &authority);
    let opened = async {
        while server.connections() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), opened).await.expect("no connection was opened");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::AnswerInReverse(2)).await;
    let proxy = Proxy::asking(&server, &authority);
    let (address, mut stream) = (proxy.address, TcpStream::connect(proxy.address).await.unwrap());
    let udp = tokio::spawn(async move { ask(address, "udp.example.com.").await });
    while server.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    // The server holds its answers until the second query, which comes just before the proxy is told to stop.
    send(&mut stream, &query(2, "tcp.example.com.", RecordType::A)).await;
    while server.asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(proxy.stop().await);
    assert_eq!(udp.await.unwrap().answers.len(), 1);
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 2);
    assert!(receive(&mut stream).await.is_none());
}
