//! Thousands of mixed questions, each asked of a real resolver directly and through the proxy: the answers are the same
//! but for TTLs, AA, RA and the OPT.

mod programs;
mod questions;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use self::questions::{Question, questions};
use crate::authority::Authority;
use crate::client::{receive, receive_datagram, send};
use crate::coredns::CoreDns;
use crate::proxy::{Proxy, Written};
use crate::unbound::Unbound;

/// How many questions are asked over DNS over TLS.
const QUESTIONS: usize = 10_000;

/// How many over other transports: what the engine does with an answer was shown already.
const FEWER_QUESTIONS: usize = 1_000;

/// How many clients ask at once.
const CLIENTS: usize = 32;

/// Another seed asks other questions; this one is printed with every difference.
const SEED: u64 = 0x00D0_75EC;

/// What the resolver answered itself: the comparison is worth something only when all kinds are among it.
#[derive(Debug, Default)]
struct Kinds {
    records: usize,
    no_records: usize,
    no_name: usize,
    truncated: usize,
}

#[tokio::test]
async fn the_answers_are_those_that_the_resolver_gives_directly() {
    let authority = Authority::new();
    let resolver = Unbound::serving(zone::ORIGIN, &zone::master_file(), &authority).await;
    let proxy = Proxy::with(&[&resolver.url()], &authority, "");
    let kinds = same_answers(resolver.plain, &proxy, QUESTIONS).await;
    let Kinds { records, no_records, no_name, truncated } = kinds;
    assert!(records > 5000 && no_records > 2000 && no_name > 900 && truncated > 200, "{kinds:?}");
    assert!(proxy.metric("dot_proxy_cache_hits_total").await > 1000, "hardly an answer came from the cache");
}

#[tokio::test]
async fn the_answers_over_https_are_those_that_the_resolver_gives_directly() {
    let authority = Authority::new();
    let resolver = Unbound::serving(zone::ORIGIN, &zone::master_file(), &authority).await;
    for method in ["post", "get"] {
        let upstream = format!("httpMethod: {method}");
        let written = Written { upstream: &upstream, ..Written::default() };
        let proxy = Proxy::written(&[&resolver.https_url()], &authority, &written);
        let kinds = same_answers(resolver.plain, &proxy, FEWER_QUESTIONS).await;
        let Kinds { records, no_records, no_name, truncated } = kinds;
        assert!(records > 500 && no_records > 200 && no_name > 90 && truncated > 20, "{kinds:?}");
    }
}

#[tokio::test]
async fn the_answers_over_quic_are_those_that_the_resolver_gives_directly() {
    let authority = Authority::new();
    let resolver = Unbound::serving(zone::ORIGIN, &zone::master_file(), &authority).await;
    let Some(coredns) = CoreDns::before(resolver.plain, &authority).await else { return };
    let proxy = Proxy::with(&[&coredns.url()], &authority, "");
    let kinds = same_answers(resolver.plain, &proxy, FEWER_QUESTIONS).await;
    let Kinds { records, no_records, no_name, truncated } = kinds;
    assert!(records > 500 && no_records > 200 && no_name > 90 && truncated > 20, "{kinds:?}");
    assert_eq!(proxy.total("dot_proxy_upstream_failures_total").await, 0);
}

/// Asks so many questions of the resolver and of the proxy; the answers must be the same. Tells what they were.
async fn same_answers(resolver: SocketAddr, proxy: &Proxy, count: usize) -> Kinds {
    let questions: Arc<Vec<Question>> = Arc::new(questions(SEED).take(count).collect());
    let mut clients = JoinSet::new();
    for first in 0..CLIENTS {
        let (questions, direct, through) = (Arc::clone(&questions), resolver, proxy.address);
        clients.spawn(async move {
            let mut pair = (Client::of(direct).await, Client::of(through).await);
            let (mut differences, mut kinds) = (Vec::new(), Kinds::default());
            for question in questions.iter().skip(first).step_by(CLIENTS) {
                let (direct, through) = (pair.0.ask(question).await, pair.1.ask(question).await);
                kinds.count(&direct.0);
                if let Some(difference) = difference(&direct, &through) {
                    differences.push(format!("{question:?}: {difference}"));
                }
            }
            (differences, kinds)
        });
    }
    let (differences, kinds): (Vec<_>, Vec<_>) = clients.join_all().await.into_iter().unzip();
    let (differences, kinds) = (differences.concat(), Kinds::sum(&kinds));
    let some: Vec<_> =
        differences.iter().take(5).map(|difference| difference.get(..2_000).unwrap_or(difference)).collect();
    let differing = differences.len();
    assert!(differences.is_empty(), "{differing} of {count} differ (seed {SEED:#x}): {some:#?}");
    kinds
}

impl Kinds {
    fn count(&mut self, reply: &Message) {
        let kind = match reply.metadata.response_code {
            _ if reply.metadata.truncation => &mut self.truncated,
            ResponseCode::NXDomain => &mut self.no_name,
            _ if reply.answers.is_empty() => &mut self.no_records,
            _ => &mut self.records,
        };
        *kind += 1;
    }

    fn sum(all: &[Self]) -> Self {
        let sum = |field: fn(&Self) -> usize| all.iter().map(field).sum();
        Self {
            records: sum(|kinds| kinds.records),
            no_records: sum(|kinds| kinds.no_records),
            no_name: sum(|kinds| kinds.no_name),
            truncated: sum(|kinds| kinds.truncated),
        }
    }
}

/// A client that asks over UDP and over a TCP connection that it keeps.
struct Client {
    server: SocketAddr,
    socket: UdpSocket,
    stream: TcpStream,
}

impl Client {
    async fn of(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { server, socket, stream: TcpStream::connect(server).await.unwrap() }
    }

    /// The reply as asked for, and, where that is truncated, the whole one.
    async fn ask(&mut self, question: &Question) -> (Message, Option<Message>) {
        let query = question.message().to_vec().unwrap();
        if question.over_tcp {
            return (self.ask_over_tcp(&query).await, None);
        }
        self.socket.send_to(&query, self.server).await.unwrap();
        let reply = Message::from_vec(&receive_datagram(&self.socket).await).unwrap();
        let whole = if reply.metadata.truncation { Some(self.ask_over_tcp(&query).await) } else { None };
        (reply, whole)
    }

    async fn ask_over_tcp(&mut self, query: &[u8]) -> Message {
        send(&mut self.stream, query).await;
        if let Some(reply) = receive(&mut self.stream).await {
            return reply;
        }
        // A busy machine takes longer from one question over TCP to the next than servers wait for it.
        self.stream = TcpStream::connect(self.server).await.unwrap();
        send(&mut self.stream, query).await;
        receive(&mut self.stream).await.expect("a new connection stays open")
    }
}

/// What the two differ in, if they do.
fn difference(direct: &(Message, Option<Message>), through: &(Message, Option<Message>)) -> Option<String> {
    if direct.0.metadata.truncation != through.0.metadata.truncation {
        return Some(format!("truncated only once: {:?} and {:?}", direct.0, through.0));
    }
    let whole = |answer: &(Message, Option<Message>)| told(answer.1.as_ref().unwrap_or(&answer.0));
    let (direct, through) = (whole(direct), whole(through));
    (direct != through).then(|| format!("\ndirectly {direct}\nthrough the proxy {through}"))
}

/// All that has to be the same, in order.
fn told(reply: &Message) -> String {
    let flags = &reply.metadata;
    let records = |section: &[Record]| -> Vec<String> {
        let told = |record: &Record| {
            let (name, data) = (record.name.to_lowercase(), format!("{:?}", record.data).to_lowercase());
            format!("{name} {} {} {data}", record.dns_class, record.record_type())
        };
        section.iter().map(told).collect()
    };
    format!(
        "{} {} rd {} cd {} ad {} tc {} edns {:?} do {:?} {:?}\n{:?}\n{:?}\n{:?}",
        flags.id,
        flags.response_code,
        flags.recursion_desired,
        flags.checking_disabled,
        flags.authentic_data,
        flags.truncation,
        reply.edns.as_ref().map(hickory_proto::op::Edns::version),
        reply.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        reply.queries.iter().map(|query| (query.name().to_ascii(), query.query_type())).collect::<Vec<_>>(),
        records(&reply.answers),
        records(&reply.authorities),
        records(&reply.additionals),
    )
}
