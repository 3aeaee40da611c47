//! Where queries come in: batches of datagrams, several readers, and TCP clients that ask much.

use std::collections::HashSet;
use std::net::SocketAddr;

use dot_proxy::app::App;
use dot_proxy::config::Resolved;
use dot_proxy_config::Config;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::authority::Authority;
use crate::client::{ask, query, receive, send};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

#[tokio::test]
async fn bound_to_all_addresses_the_proxy_replies_from_the_one_that_was_asked() {
    let yaml = "listen: {host: 0.0.0.0, port: 0}\nadmin: {address: \"127.0.0.1:0\"}\nupstream: {servers: [\"tls://127.0.0.1:1#nobody.test\"]}";
    let app = App::bind(Resolved::from_written(&Config::from_yaml(yaml).unwrap()).unwrap()).unwrap();
    let port = app.address().unwrap().port();
    tokio::spawn(app.run(std::future::pending()));
    // The second question needs the upstream, so its reply comes from another thread.
    for name in ["localhost.", "www.example.com."] {
        for asked in ["127.0.0.1", "127.0.0.2"] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let asked = SocketAddr::new(asked.parse().unwrap(), port);
            socket.send_to(&query(1, name, RecordType::A), asked).await.unwrap();
            let reply = tokio::time::timeout(std::time::Duration::from_secs(10), socket.recv_from(&mut [0; 512])).await;
            assert_eq!(reply.expect("no reply").unwrap().1, asked);
        }
    }
}

#[tokio::test]
async fn every_reader_answers_and_stops() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    for threads in [1, 3] {
        let proxy = Proxy::with(&[&server.url()], &authority, &format!("threads: {threads}"));
        let asking: Vec<_> = (0..100)
            .map(|index| {
                let (address, name) = (proxy.address, format!("n{}.example.com.", index % 10));
                tokio::spawn(async move { ask(address, &name).await })
            })
            .collect();
        for asked in asking {
            assert_eq!(asked.await.unwrap().answers.len(), 1);
        }
        assert!(proxy.stop().await);
    }
}

#[tokio::test]
async fn a_thousand_queries_in_one_write_are_all_answered() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let (mut reader, mut writer) = TcpStream::connect(proxy.address).await.unwrap().into_split();
    let mut written = Vec::new();
    for id in 0..1000 {
        let name = if id % 2 == 0 { "localhost.".to_owned() } else { format!("n{id}.example.com.") };
        let message = query(id, &name, RecordType::A);
        written.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        written.extend(message);
    }
    let writing = tokio::spawn(async move {
        // In pieces that end anywhere.
        for piece in written.chunks(1777) {
            writer.write_all(piece).await.unwrap();
        }
        writer
    });
    let mut heard = HashSet::new();
    for _ in 0..1000 {
        let length = reader.read_u16().await.unwrap();
        let mut message = vec![0; length.into()];
        reader.read_exact(&mut message).await.unwrap();
        let message = Message::from_vec(&message).unwrap();
        assert_eq!(message.answers.len(), 1);
        assert!(heard.insert(message.metadata.id));
    }
    drop(writing.await.unwrap());
    assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_has_sent_its_last_query_gets_what_it_is_owed() {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, |_, _| Reaction::AnswerInReverse(2)).await;
    let proxy = Proxy::asking(&server, &authority);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, &query(1, "a.example.com.", RecordType::A)).await;
    send(&mut stream, &query(2, "b.example.com.", RecordType::A)).await;
    stream.shutdown().await.unwrap();
    let ids = [receive(&mut stream).await.unwrap().metadata.id, receive(&mut stream).await.unwrap().metadata.id];
    assert_eq!(HashSet::from(ids), HashSet::from([1, 2]));
    assert!(receive(&mut stream).await.is_none());
}
