//! TCP clients: kept for valid queries without limit, closed on the first invalid input.

use hickory_proto::rr::RecordType;
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::client::{query, receive, send};
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::Server;

#[tokio::test]
async fn one_connection_serves_any_number_of_valid_queries() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for id in 0..500 {
        send(&mut stream, &query(id, "www.example.com.", RecordType::A)).await;
        assert_eq!(receive(&mut stream).await.unwrap().metadata.id, id);
    }
}

#[tokio::test]
async fn queries_on_one_connection_are_answered_as_their_answers_come() {
    let authority = Authority::new();
    let slow =
        |name: &str, _| if name.starts_with("slow") { Reaction::AnswerInReverse(1000) } else { Reaction::Answer };
    let server = Server::tls_that(&authority, slow).await;
    let proxy = Proxy::asking(&server, &authority);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, &query(1, "slow.example.com.", RecordType::A)).await;
    send(&mut stream, &query(2, "fast.example.com.", RecordType::A)).await;
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 2);
}

#[tokio::test]
async fn the_first_invalid_input_ends_the_connection_once_the_replies_owed_are_sent() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let mut trailing = query(2, "www.example.com.", RecordType::A);
    trailing.push(0);
    let response = {
        let mut bytes = query(2, "www.example.com.", RecordType::A);
        bytes[2] |= 0x80;
        bytes
    };
    for invalid in [vec![], vec![0; 5], vec![0xff; 40], trailing, response] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        send(&mut stream, &query(1, "www.example.com.", RecordType::A)).await;
        send(&mut stream, &invalid).await;
        assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 1);
        while let Some(reply) = receive(&mut stream).await {
            assert_eq!(u16::from(reply.metadata.response_code), 1, "{invalid:?}");
        }
    }
}

#[tokio::test]
async fn beyond_the_limit_of_connections_the_newest_is_closed_and_the_first_lives() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy =
        Proxy::written(&[&server.url()], &authority, &Written { listen: "connections: 1", ..Written::default() });
    let mut first = TcpStream::connect(proxy.address).await.unwrap();
    for id in 0..2 {
        send(&mut first, &query(id, "www.example.com.", RecordType::A)).await;
        assert_eq!(receive(&mut first).await.unwrap().metadata.id, id);
        let mut second = TcpStream::connect(proxy.address).await.unwrap();
        assert!(receive(&mut second).await.is_none());
    }
    assert_eq!(proxy.metric("dot_proxy_dropped_total{reason=\"connections\"}").await, 2);
}
