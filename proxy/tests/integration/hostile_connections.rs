//! TCP clients that misbehave: each is let go by a reset, once what it is owed has arrived, and counted by what it did.

use std::io::ErrorKind;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::authority::Authority;
use crate::client::{ask, query, receive, send};
use crate::conversation::frame;
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::Server;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy whose upstream cannot be reached: `localhost` is answered all the same.
fn alone(more: &str) -> Proxy {
    Proxy::with(&["tls://127.0.0.1:1#nobody.test"], &Authority::new(), more)
}

/// So many queries for `localhost`, each behind its length.
fn many(count: u16) -> Vec<u8> {
    (0..count).flat_map(|id| frame(&query(id, "localhost.", RecordType::A))).collect()
}

/// Connections that ended for a reason.
async fn closed(proxy: &Proxy, reason: &str) -> u64 {
    let (_, metrics) = proxy.admin("/metrics").await;
    let metric = format!("dot_proxy_tcp_clients_closed_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&metric)?.parse().ok()).unwrap_or(0)
}

/// Reads until the end, which has to be a reset.
async fn ends_by_reset(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await.expect("the connection goes on") {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Messages that are none, as they are sent, and what they are counted as.
fn hostile() -> Vec<(Vec<u8>, &'static str)> {
    let good = query(9, "localhost.", RecordType::A);
    let with = |at: usize, octet: u8| {
        let mut message = good.clone();
        message[at] = octet;
        frame(&message)
    };
    let pointer_to_itself = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1][..]].concat();
    vec![
        (vec![0, 0], "bad-frame"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "bad-frame"),
        (vec![0x16, 3, 1, 2, 0, 1, 0], "bad-frame"),
        (frame(&[7; 11]), "not-dns"),
        (frame(&[0; 40]), "impossible-counts"),
        (with(2, 0x81), "not-a-query"),
        (with(5, 2), "impossible-counts"),
        (with(11, 200), "impossible-counts"),
        (frame(&pointer_to_itself), "compression"),
        (frame(&[&good[..], b"more"].concat()), "trailing-octets"),
    ]
}

#[tokio::test]
async fn the_first_invalid_input_ends_a_connection_by_a_reset_once_the_replies_owed_are_there() {
    let authority = Authority::new();
    // Answers when both are asked: the invalid input is there long before.
    let server = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(200))).await;
    let proxy = Proxy::asking(&server, &authority);
    for (index, (invalid, reason)) in hostile().into_iter().enumerate() {
        let before = closed(&proxy, reason).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = format!("n{index}.example.com.");
        let sent = [&frame(&query(1, &name, RecordType::A))[..], &many(2), &invalid, &many(3)].concat();
        stream.write_all(&sent).await.unwrap();
        let mut heard = Vec::new();
        let error = loop {
            let mut length = [0; 2];
            match timeout(PATIENCE, stream.read_exact(&mut length)).await.expect("the connection goes on") {
                Ok(_) => {}
                Err(error) => break error,
            }
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message).await.unwrap();
            heard.push((u16::from_be_bytes([message[0], message[1]]), message[3] & 15));
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{reason}");
        let good: Vec<_> = heard.iter().filter(|(_, rcode)| *rcode == 0).map(|(id, _)| *id).collect();
        assert_eq!(good, [0, 1, 1], "{reason}: {heard:?}");
        assert!(heard.iter().all(|(_, rcode)| *rcode <= 1), "{reason}: {heard:?}");
        assert_eq!(closed(&proxy, reason).await, before + 1, "{reason}");
    }
}

#[tokio::test]
async fn an_operation_that_is_not_implemented_is_answered_so_and_the_connection_kept() {
    let proxy = alone("");
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut status = query(1, "localhost.", RecordType::A);
    status[2] = 0x10;
    send(&mut stream, &status).await;
    assert_eq!(receive(&mut stream).await.unwrap().metadata.response_code, ResponseCode::NotImp);
    send(&mut stream, &query(2, "localhost.", RecordType::A)).await;
    assert_eq!(receive(&mut stream).await.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn a_client_that_goes_on_sending_garbage_gets_its_replies_and_the_reset() {
    let proxy = alone("");
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    send(&mut stream, &query(1, "localhost.", RecordType::A)).await;
    stream.write_all(&4097u16.to_be_bytes()).await.unwrap();
    let _ = stream.write_all(&[0; 200_000]).await; // it may end meanwhile
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 1);
    assert!(ends_by_reset(&mut stream).await);
    assert_eq!(closed(&proxy, "bad-frame").await, 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_what_it_is_owed_is_let_go() {
    let authority = Authority::new();
    let together = |name: &str, _| {
        if name.starts_with("large") { Reaction::AnswerInReverse(256) } else { Reaction::Answer }
    };
    let server = Server::tls_that(&authority, together).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "clients: {connection: {owed: 128Ki}}");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(proxy.address).await.unwrap();
    for id in 0..256 {
        send(&mut stream, &query(id, &format!("large{id}.example.com."), RecordType::A)).await;
    }
    until("it is let go", async || closed(&proxy, "octets").await == 1).await;
    assert!(ends_by_reset(&mut stream).await);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
}

// Time is paused: it leaps to the next timer when nothing can be done.
#[tokio::test(start_paused = true)]
async fn clients_that_trickle_idle_never_ask_or_take_nothing_are_let_go_each_after_its_time() {
    let proxy = alone("clients: {connection: {idleSeconds: 20, querySeconds: 4, replySeconds: 6}}");
    let began = tokio::time::Instant::now();
    let after = |seconds: u64| {
        let passed = began.elapsed();
        passed >= Duration::from_secs(seconds) && passed < Duration::from_secs(seconds + 2)
    };
    let mut trickles = TcpStream::connect(proxy.address).await.unwrap();
    trickles.write_all(&many(3)).await.unwrap();
    let mut received = vec![0; 3 * 47];
    for octet in [0, 40, 1] {
        trickles.write_all(&[octet]).await.unwrap(); // the beginning of a query is none
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    trickles.read_exact(&mut received).await.unwrap();
    assert!(ends_by_reset(&mut trickles).await && after(4), "{:?}", began.elapsed());

    let began = tokio::time::Instant::now();
    let after = |seconds: u64| {
        began.elapsed() >= Duration::from_secs(seconds) && began.elapsed() < Duration::from_secs(seconds + 2)
    };
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    idle.write_all(&many(3)).await.unwrap();
    let mut unused = TcpStream::connect(proxy.address).await.unwrap();
    assert!(ends_by_reset(&mut unused).await && after(20), "{:?}", began.elapsed());
    // Who did ask gets what every client expects: an end, no reset.
    assert!(!ends_by_reset(&mut idle).await && after(20));

    let mut stuck = TcpStream::connect(proxy.address).await.unwrap();
    let queries = many(1000);
    // Writing ends when the proxy lets go: until then it reads no more than it can answer.
    while stuck.write_all(&queries).await.is_ok() {}
    for reason in ["trickled", "idle", "unused", "never-read"] {
        assert_eq!(closed(&proxy, reason).await, 1, "{reason}");
    }
}

#[tokio::test]
async fn however_many_send_their_queries_in_pieces_all_are_answered_and_who_does_not_beside_them() {
    let proxy = alone("");
    let (mut slow, mut whole) = (Vec::new(), TcpStream::connect(proxy.address).await.unwrap());
    for _ in 0..300 {
        slow.push(TcpStream::connect(proxy.address).await.unwrap());
    }
    let bytes = many(1);
    for id in 0..3 {
        for pieces in [&bytes[..1], &bytes[1..7], &bytes[7..20], &bytes[20..]] {
            for stream in &mut slow {
                stream.write_all(pieces).await.unwrap();
            }
            send(&mut whole, &query(id, "localhost.", RecordType::A)).await;
            assert_eq!(receive(&mut whole).await.unwrap().metadata.id, id);
        }
        for stream in &mut slow {
            assert_eq!(receive(stream).await.unwrap().answers.len(), 1);
        }
    }
}

#[tokio::test]
async fn who_asks_finds_room_however_many_connect_and_do_not() {
    let proxy = Proxy::written(
        &["tls://127.0.0.1:1#nobody.test"],
        &Authority::new(),
        &Written { listen: "connections: 16", ..Written::default() },
    );
    let mut kept = TcpStream::connect(proxy.address).await.unwrap();
    let mut idle = Vec::new();
    for id in 0..20 {
        send(&mut kept, &query(id, "localhost.", RecordType::A)).await;
        assert_eq!(receive(&mut kept).await.unwrap().metadata.id, id);
        for _ in 0..16 {
            idle.push(TcpStream::connect(proxy.address).await.unwrap());
        }
        let mut fresh = TcpStream::connect(proxy.address).await.unwrap();
        send(&mut fresh, &query(id, "localhost.", RecordType::A)).await;
        assert_eq!(receive(&mut fresh).await.expect("a client that asks was turned away").metadata.id, id);
    }
    assert!(closed(&proxy, "displaced").await >= 300);
    assert!(ends_by_reset(&mut idle[0]).await);
}

#[tokio::test]
async fn a_client_with_more_in_flight_than_its_share_is_told_so_and_others_are_served() {
    let authority = Authority::new();
    let slow = |name: &str, _| {
        if name.starts_with('n') { Reaction::Late(Duration::from_millis(500)) } else { Reaction::Answer }
    };
    let server = Server::tls_that(&authority, slow).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "clients: {inFlight: 8}");
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for id in 0..20 {
        send(&mut stream, &query(id, &format!("n{id}.example.com."), RecordType::A)).await;
    }
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(receive(&mut stream).await.unwrap().metadata.response_code);
    }
    assert_eq!(codes.iter().filter(|code| **code == ResponseCode::ServFail).count(), 12);
    assert_eq!(proxy.metric("dot_proxy_dropped_total{reason=\"client-overload\"}").await, 12);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
}
