//! Clients that misbehave again and again: shut out for a while, seen on the admin's page, and nobody else with them.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::authority::Authority;
use crate::client::{ask, query, receive, receive_datagram, send};
use crate::conversation::frame;
use crate::proxy::Proxy;
use crate::wait::until;

const NOBODY: &[&str] = &["tls://127.0.0.1:1#nobody.test"];

/// Connects, sends garbage, and waits for the end.
async fn misbehave(proxy: SocketAddr) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
    while let Ok(1..) = stream.read(&mut [0; 64]).await {}
}

async fn is_answered(stream: &mut TcpStream) -> bool {
    let asked = stream.write_all(&frame(&query(5, "localhost.", RecordType::A))).await;
    asked.is_ok() && stream.read(&mut [0; 512]).await.is_ok_and(|length| length > 0)
}

#[tokio::test]
async fn a_stranger_that_misbehaves_again_and_again_is_shut_out_for_a_while_and_let_in_again() {
    // Five times 10, of which a little is forgiven meanwhile.
    let more = "clients: {shutOut: {seconds: 2, score: 45}}";
    let proxy = Proxy::among_strangers(NOBODY, &Authority::new(), more);
    let mut earlier = TcpStream::connect(proxy.address).await.unwrap();
    assert!(is_answered(&mut earlier).await);
    for _ in 0..5 {
        misbehave(proxy.address).await;
    }
    // What it had open is closed with it, and nothing new is served, by whatever way.
    assert!(!is_answered(&mut earlier).await);
    let refused = async || match TcpStream::connect(proxy.address).await {
        Ok(mut stream) => !is_answered(&mut stream).await,
        Err(_) => true,
    };
    assert!(refused().await);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(1, "localhost.", RecordType::A), proxy.address).await.unwrap();
    until("the datagram is dropped", async || proxy.metric("dot_proxy_dropped_total{reason=\"shut-out\"}").await >= 2)
        .await;
    let (status, page) = proxy.admin("/debug/clients").await;
    assert_eq!(status, 200);
    let line = page.lines().find(|line| line.starts_with("127.0.0.1 ")).unwrap_or_else(|| panic!("{page}"));
    assert!(line.contains("shut-out"), "{page}");
    let (_, metrics) = proxy.admin("/metrics").await;
    assert!(metrics.contains("dot_proxy_clients_restrained 1\n"), "{metrics}");
    let of_clients = |line: &&str| line.contains("client") || line.contains("dropped");
    assert!(
        metrics.lines().filter(of_clients).all(|line| !line.contains("127.0.0.1")),
        "an address in a label: {metrics}"
    );
    until("it is let in again", async || !refused().await).await;
    until("it is no longer counted", async || proxy.metric("dot_proxy_clients_restrained").await == 0).await;
    assert_eq!(proxy.metric("dot_proxy_client_restraints_total{restraint=\"shut-out\"}").await, 1);
    assert_eq!(ask(proxy.address, "localhost.").await.answers.len(), 1);
}

#[tokio::test]
async fn a_process_of_the_pod_that_misbehaves_cuts_off_none_of_its_neighbours() {
    let proxy = Proxy::with(NOBODY, &Authority::new(), "clients: {shutOut: {score: 20}}");
    let mut neighbour = TcpStream::connect(proxy.address).await.unwrap();
    let bad = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..50 {
        misbehave(proxy.address).await;
        for _ in 0..10 {
            bad.send_to(&[0x55; 5], proxy.address).await.unwrap();
        }
        send(&mut neighbour, &query(round, "localhost.", RecordType::A)).await;
        assert_eq!(receive(&mut neighbour).await.unwrap().metadata.id, round);
        assert_eq!(ask(proxy.address, "localhost.").await.answers.len(), 1);
    }
    let (_, page) = proxy.admin("/debug/clients").await;
    let port = format!("loopback port {} ", bad.local_addr().unwrap().port());
    let line =
        |beginning: &str| page.lines().find(|line| line.starts_with(beginning)).unwrap_or_else(|| panic!("{page}"));
    assert!(line(&port).contains("slowed") && line("loopback connections ").contains("served"), "{page}");
    assert!(proxy.metric("dot_proxy_dropped_total{reason=\"slowed\"}").await > 0);
    // Even itself it does not cut off: in time it is listened to.
    let answered = async {
        loop {
            bad.send_to(&query(7, "localhost.", RecordType::A), proxy.address).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(60), receive_datagram(&bad)).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("it is not listened to");
}
