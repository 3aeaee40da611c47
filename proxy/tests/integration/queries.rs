//! What an upstream sees: the question, and nothing that tells who asked.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use tokio::net::{TcpStream, UdpSocket};

use crate::answers::is_right;
use crate::authority::Authority;
use crate::client::{ask, ask_over_tcp, ask_this, message, query, receive, send_all};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;
use crate::wait::until;

/// A proxy and the one server that it asks.
async fn asking_one() -> (Server, Proxy) {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    (server, proxy)
}

#[tokio::test]
async fn queries_are_padded_to_blocks_of_128_octets() {
    let (server, proxy) = asking_one().await;
    for length in [1, 20, 60, 63] {
        let name = format!("{}.{}.example.com.", "a".repeat(length), "b".repeat(length));
        ask(proxy.address, &name).await;
    }
    let queries = server.queries();
    assert_eq!(queries.len(), 4);
    for query in queries {
        assert_eq!(query.len() % 128, 0);
        let edns = Message::from_vec(&query).unwrap().edns.unwrap();
        let Some(EdnsOption::Unknown(_, padding)) = edns.option(EdnsCode::Padding) else { panic!("{edns:?}") };
        assert!(padding.iter().all(|byte| *byte == 0));
    }
}

#[tokio::test]
async fn the_upstream_is_asked_how_long_it_keeps_idle_connections() {
    let (server, proxy) = asking_one().await;
    ask(proxy.address, "www.example.com.").await;
    let edns = Message::from_vec(&server.queries()[0]).unwrap().edns.unwrap();
    assert_eq!(edns.option(EdnsCode::Keepalive), Some(&EdnsOption::Unknown(11, Vec::new())));
}

#[tokio::test]
async fn no_option_of_the_clients_goes_upstream() {
    let (server, proxy) = asking_one().await;
    let mut query = message(0xbeef, "www.example.com.", RecordType::A);
    let options = query.edns.as_mut().unwrap().options_mut();
    options.insert(EdnsOption::Subnet(ClientSubnet::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24, 0)));
    options.insert(EdnsOption::Unknown(10, b"a cookie".to_vec()));
    options.insert(EdnsOption::Unknown(65_001, b"who I am".to_vec()));
    ask_this(proxy.address, &query).await;
    let edns = Message::from_vec(&server.queries()[0]).unwrap().edns.unwrap();
    for code in [EdnsCode::Subnet, EdnsCode::Cookie, EdnsCode::Unknown(65_001)] {
        assert!(edns.option(code).is_none(), "{edns:?}");
    }
}

#[tokio::test]
async fn queries_that_come_together_over_udp_share_tls_records() {
    let (server, proxy) = asking_one().await;
    ask(proxy.address, "first.example.com.").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
    let mut fewest = usize::MAX;
    // Where this thread is held up between two of them, they do not come together: then once more.
    for burst in 0..5 {
        let (records, asked) = (server.records(), server.asked().len());
        // Sent without a pause: while the proxy is at the first ones, the others come.
        for id in 0..64 {
            let name = format!("n{id}.burst{burst}.example.com.");
            socket.send_to(&query(id, &name, RecordType::A), proxy.address).unwrap();
        }
        until("all queries are at the upstream", async || server.asked().len() == asked + 64).await;
        fewest = fewest.min(server.records() - records);
    }
    assert!(fewest <= 32, "{fewest} records for 64 queries");
}

#[tokio::test]
async fn queries_that_come_together_over_tcp_leave_in_one_tls_record() {
    let (server, proxy) = asking_one().await;
    ask(proxy.address, "first.example.com.").await;
    let before = server.records();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let queries: Vec<_> = (0..16).map(|id| query(id, &format!("n{id}.example.com."), RecordType::A)).collect();
    send_all(&mut stream, &queries).await;
    for _ in 0..16 {
        receive(&mut stream).await.unwrap();
    }
    let records = server.records() - before;
    assert!(records <= 2, "{records} records for 16 queries");
}

#[tokio::test]
async fn twenty_equal_questions_at_once_ask_the_upstream_once() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(100))).await;
    let proxy = Proxy::asking(&server, &authority);
    let asking: Vec<_> = (0..20)
        .map(|id| {
            // Two letter cases and two ways: the question is the same.
            let name = if id % 2 == 0 { "www.example.com." } else { "WWW.example.COM." };
            let (address, query) = (proxy.address, message(id, name, RecordType::A));
            tokio::spawn(async move {
                let reply =
                    if id % 5 == 0 { ask_over_tcp(address, &query).await } else { ask_this(address, &query).await };
                (query, reply)
            })
        })
        .collect();
    for asked in asking {
        let (query, reply) = asked.await.unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert!(reply.queries[0].name().eq_case(query.queries[0].name()));
        assert!(is_right(&reply, query.queries[0].name()));
    }
    assert_eq!(server.asked(), ["www.example.com."]);
}
