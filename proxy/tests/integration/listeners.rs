//! Where queries come in: batches of datagrams, several readers, and TCP clients that ask much, too much, or do not read.

use std::collections::HashSet;
use std::net::SocketAddr;

use dot_proxy::app::App;
use dot_proxy::config::Resolved;
use dot_proxy_config::Config;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::authority::Authority;
use crate::client::{ask, query, receive, send};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

/// A proxy whose upstream cannot be reached: `localhost` is answered all the same.
fn alone(more: &str) -> Proxy {
    Proxy::with(&["tls://127.0.0.1:1#nobody.test"], &Authority::new(), more)
}

/// So many queries for `localhost`, each behind its length.
fn many(count: u16) -> Vec<u8> {
    let framed = |id| {
        let message = query(id, "localhost.", RecordType::A);
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
    };
    (0..count).flat_map(framed).collect()
}

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

#[tokio::test]
async fn a_query_of_more_than_4096_octets_is_refused_and_the_replies_owed_arrive() {
    let proxy = alone("");
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, &query(1, "localhost.", RecordType::A)).await;
    // Far more than is read after the refusal: what was owed must not be lost to a reset.
    stream.write_all(&4097u16.to_be_bytes()).await.unwrap();
    stream.write_all(&[0; 20_000]).await.unwrap();
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 1);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(stream.take_error().unwrap().is_none(), "a reset came, and on a slower way it overtakes replies");
    assert_eq!(proxy.metric("dot_proxy_tcp_clients_closed_total{reason=\"invalid\"}").await, 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_what_it_is_owed_is_let_go() {
    let authority = Authority::new();
    let together = |name: &str, _| {
        if name.starts_with("large") { Reaction::AnswerInReverse(256) } else { Reaction::Answer }
    };
    let server = Server::tls_that(&authority, together).await;
    let proxy = Proxy::asking(&server, &authority);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(proxy.address).await.unwrap();
    for id in 0..256 {
        send(&mut stream, &query(id, &format!("large{id}.example.com."), RecordType::A)).await;
    }
    let slow = async {
        let metric = "dot_proxy_tcp_clients_closed_total{reason=\"slow\"} 1";
        while !proxy.admin("/metrics").await.1.contains(metric) {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), slow).await.expect("it was not let go");
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
}

// Time is paused: it leaps to the next timer when nothing can be done.
#[tokio::test(start_paused = true)]
async fn clients_that_send_nothing_or_take_nothing_for_long_are_let_go() {
    let proxy = alone("");
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    idle.write_all(&many(3)).await.unwrap();
    idle.write_all(&[0, 40, 1]).await.unwrap(); // the beginning of a query is none
    let mut received = Vec::new();
    idle.read_to_end(&mut received).await.unwrap();
    assert!(received.len() > 100);
    let mut stuck = TcpStream::connect(proxy.address).await.unwrap();
    let queries = many(1000);
    // Writing ends when the proxy lets go: until then it reads no more than it can answer.
    while stuck.write_all(&queries).await.is_ok() {}
    let (_, metrics) = proxy.admin("/metrics").await;
    for reason in ["idle", "slow"] {
        let metric = format!("dot_proxy_tcp_clients_closed_total{{reason=\"{reason}\"}} 1\n");
        assert!(metrics.contains(&metric), "{metrics}");
    }
}
