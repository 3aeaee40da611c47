//! Panics provoked at each place on a query's way, beside queries that are none the worse for it.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use dot_proxy_config::{Responses, Strategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::cache::{self, Cache};
use crate::clients::access::Access;
use crate::clients::responses::ResponseLimit;
use crate::clients::{Clients, Telling};
use crate::drops::Drops;
use crate::listener::{self, Sockets, tcp, udp};
use crate::policy::Policy;
use crate::replies::Recipient;
use crate::resolve::{Asking, Protocol, Resolver, Sender, Stages, Step, Trust};
use crate::router::Router;
use crate::upstream::group::Group;
use crate::upstream::scripted::{Scripted, question};
use crate::upstream::server;
use crate::wire::response::TtlBounds;
use crate::wire::{Rcode, flag, read_u16};

const SERVFAIL: u16 = 2;

/// A resolver that asks this server, and what counts its panics.
fn resolver(server: &Scripted) -> (Arc<Resolver>, Panics) {
    let (panics, mut registry) = (Panics::default(), Registry::default());
    let servers = vec![server.configured()];
    let (bounds, metrics) =
        (TtlBounds { min: 0, max: 86_400 }, server::Metrics::telling(Events::none(), panics.clone()));
    let group = Group::new("upstream", servers, Strategy::Ordered, bounds, &metrics, Handle::current());
    let settings = cache::Settings { budget: 1 << 20, stale_for: Duration::ZERO, prefetch: false };
    let stages = Stages {
        policy: Policy::new(None),
        cache: Cache::new(settings, &mut registry),
        router: Router::default(),
        groups: vec![group],
        events: Events::none(),
        panics: panics.clone(),
        deadline: Duration::from_secs(4),
        in_flight: 64,
        in_flight_of_one: 64,
        cookies: None,
        responses: ResponseLimit::of(&Responses::default(), Instant::now()).into(),
        drops: Drops::new(&mut registry),
    };
    (Arc::new(Resolver::new(stages, Handle::current(), &mut registry)), panics)
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(question(name));
    // In its own letter case, which matters to what is provoked.
    for label in name.split('.') {
        let lower = label.to_ascii_lowercase();
        let at = message.windows(label.len()).position(|window| window == lower.as_bytes()).expect("it is in there");
        message[at..at + label.len()].copy_from_slice(label.as_bytes());
    }
    message
}

/// Asks these names in one batch.
fn ask(resolver: &Arc<Resolver>, names: &[&str]) -> Vec<oneshot::Receiver<Vec<u8>>> {
    let mut asking = Asking::default();
    let asked = names.iter().map(|name| {
        let (recipient, reply) = Recipient::caller();
        let (now, mut out) = (Instant::now(), Vec::new());
        let address = "127.0.0.1:40000".parse().unwrap();
        let sender = Sender { protocol: Protocol::Udp, address, trust: Trust::Usual };
        let step = resolver.begin(&query(7, name), sender, now, &mut out, &mut asking, || recipient);
        assert_eq!(step, Step::Waiting, "{name}");
        reply
    });
    let asked = asked.collect();
    resolver.flush(&mut asking);
    asked
}

fn rcode(reply: &[u8]) -> u16 {
    read_u16(reply, 2).unwrap() & flag::RCODE
}

async fn rcode_of(reply: oneshot::Receiver<Vec<u8>>) -> u16 {
    rcode(&replied(reply).await.expect("a reply comes"))
}

/// The reply, or that none will come, within a time that paused clocks come to soon.
async fn replied(reply: oneshot::Receiver<Vec<u8>>) -> Result<Vec<u8>, oneshot::error::RecvError> {
    tokio::time::timeout(Duration::from_secs(60), reply).await.expect("it is told what becomes of a query")
}

/// No query has a place any more that it does not give back.
async fn assert_drained(resolver: &Resolver) {
    assert!(tokio::time::timeout(Duration::from_secs(60), resolver.drained()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_an_answer_fails_its_query_and_no_other_on_the_connection() {
    let server = Scripted::answering(Duration::from_millis(5));
    let (resolver, panics) = resolver(&server);
    let [first] = ask(&resolver, &["first.example"]).try_into().unwrap();
    assert_eq!(rcode_of(first).await, 0); // the connection is open from now on
    let [before, lost, after] = ask(&resolver, &["a.example", "answer.panic.example", "b.example"]).try_into().unwrap();
    assert_eq!((rcode_of(before).await, rcode_of(lost).await, rcode_of(after).await), (0, SERVFAIL, 0));
    assert_eq!((panics.count(), server.connections()), (1, 1));
    assert_drained(&resolver).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_attempt_or_in_what_sees_to_it_is_told_to_who_asked() {
    for name in ["attempt.panic.example", "rescue.panic.example"] {
        let (resolver, panics) = resolver(&Scripted::answering(Duration::from_millis(5)));
        let [lost, other] = ask(&resolver, &[name, "a.example"]).try_into().unwrap();
        let reply = replied(lost).await.expect("a reply comes");
        assert_eq!(rcode(&reply), SERVFAIL, "{name}");
        assert_eq!(rcode_of(other).await, 0);
        assert!(panics.count() >= 1, "{name}");
        assert_drained(&resolver).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_same_answer_gets_it_though_a_panic_loses_another_s_reply() {
    let (resolver, panics) = resolver(&Scripted::answering(Duration::from_millis(5)));
    let names = ["Reply.panic.example", "reply.panic.example", "REPLY.panic.example"];
    let [first, lost, last] = ask(&resolver, &names).try_into().unwrap();
    assert_eq!((rcode_of(first).await, rcode_of(last).await), (0, 0));
    assert!(replied(lost).await.is_err());
    assert_eq!(panics.count(), 1);
    assert_drained(&resolver).await;
}

#[tokio::test]
async fn readers_and_connections_survive_a_panic_over_one_message() {
    let (resolver, panics) = resolver(&Scripted::answering(Duration::from_millis(1)));
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let address = sockets.tcp.local_addr().unwrap();
    let metrics = listener::Metrics::telling(Events::none(), panics.clone());
    let settings = dot_proxy_config::Clients::default();
    let limits = tcp::Limits::of(8, &settings);
    let (drops, responses) = (resolver.drops().clone(), Arc::clone(resolver.responses()));
    let telling = Telling { runtime: Handle::current(), drops, responses, events: Events::none() };
    let clients = Clients::new(Access::private_and(&[]), settings, telling, &mut Registry::default());
    let readers = udp::Readers::start(sockets.udp, &clients, &resolver, &metrics).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let listener = sockets.tcp;
    let service = tcp::Service { listener, limits, clients, resolver: Arc::clone(&resolver), metrics };
    let serving = tokio::spawn(service.run(stopped));
    let names = ["begin.panic.example", "localhost", "begin.panic.example", "localhost"];
    tokio::task::spawn_blocking(move || ask_over_udp(address, &names)).await.unwrap();
    assert_eq!(panics.count(), 2);
    let mut stream = TcpStream::connect(address).await.unwrap();
    for (id, name) in (0..).zip(names) {
        let query = query(id, name);
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
    }
    for id in [1, 3] {
        let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!((read_u16(&reply, 0), rcode(&reply)), (Some(id), Rcode::NOERROR.0));
    }
    assert_eq!(panics.count(), 4);
    stop.send(true).unwrap();
    drop(stream);
    serving.await.unwrap();
    readers.stop();
}

/// Asks them all, and hears of those alone that are not lost.
fn ask_over_udp(proxy: SocketAddr, names: &[&str]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for (id, name) in (0..).zip(names) {
        socket.send_to(&query(id, name), proxy).unwrap();
    }
    for id in [1, 3] {
        let mut reply = [0; 512];
        let length = socket.recv(&mut reply).unwrap();
        assert_eq!((read_u16(&reply[..length], 0), rcode(&reply)), (Some(id), 0));
    }
}

#[tokio::test]
async fn a_task_that_panics_midway_is_counted_once() {
    let panics = Panics::default();
    let work = async {
        tokio::task::yield_now().await;
        panic!("provoked");
    };
    assert_eq!(panics.contain_task("test", work).await, None::<()>);
    assert_eq!(panics.contain("test", || 7), Some(7));
    assert_eq!(panics.count(), 1);
}
