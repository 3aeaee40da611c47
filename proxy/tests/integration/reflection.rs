//! What comes in others' names: beyond the limit nothing is made larger, and who proves its address is served.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{RData, RecordType};
use tokio::net::UdpSocket;

use crate::answers::UNKNOWN_TYPE;
use crate::authority::Authority;
use crate::client::{ask_over_tcp, ask_this, exchange, message, query, receive_datagram};
use crate::proxy::Proxy;
use crate::server::Server;
use crate::wait::until;

const NOBODY: &[&str] = &["tls://127.0.0.1:1#nobody.test"];
const LIMITED: &str = "clients: {responses: {perSecond: 1, burst: 5, slip: 2}}";

fn with_cookie(id: u16, name: &str, cookie: &[u8]) -> Message {
    let mut message = message(id, name, RecordType::A);
    message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
    message
}

fn cookie_in(reply: &Message) -> Vec<u8> {
    match reply.edns.as_ref().unwrap().option(EdnsCode::Cookie) {
        Some(EdnsOption::Unknown(_, cookie)) => cookie.clone(),
        other => panic!("no cookie: {other:?}"),
    }
}

fn code(reply: &Message) -> u16 {
    reply.metadata.response_code.into()
}

/// Sends these, and gives what comes back until the proxy has seen all.
async fn exchanged(proxy: &Proxy, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = proxy.metric("dot_proxy_queries_total{protocol=\"udp\"}").await;
    for query in queries {
        socket.send_to(query, proxy.address).await.unwrap();
    }
    let all = before + queries.len() as u64;
    until("all are seen", async || proxy.metric("dot_proxy_queries_total{protocol=\"udp\"}").await == all).await;
    let mut replies = Vec::new();
    let mut buffer = vec![0; 65_535];
    // Replies leave with the batch that the queries came in; the last may be on its way.
    while let Ok(Ok((length, _))) =
        tokio::time::timeout(std::time::Duration::from_millis(300), socket.recv_from(&mut buffer)).await
    {
        replies.push(buffer[..length].to_vec());
    }
    replies
}

#[tokio::test]
async fn beyond_the_limit_no_more_octets_leave_than_came() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let long = "www.example.com.";
    for slip in [0, 1, 2] {
        let limited =
            format!("clients: {{responses: {{perSecond: 1, burst: 5, slip: {slip}}}, shutOut: {{score: 0}}}}");
        let proxy = Proxy::among_strangers(&[&server.url()], &authority, &limited);
        // Everything is in the cache, and the largest there is.
        ask_over_tcp(proxy.address, &message(1, long, UNKNOWN_TYPE)).await;
        ask_over_tcp(proxy.address, &message(1, long, RecordType::TXT)).await;
        let spent: Vec<_> = (0..5).map(|id| query(id, "localhost.", RecordType::A)).collect();
        exchanged(&proxy, &spent).await;
        let mut without_edns = message(1, long, RecordType::TXT);
        without_edns.edns = None;
        for kind in [
            query(1, long, RecordType::TXT),
            query(1, long, UNKNOWN_TYPE),
            query(1, long, RecordType::ANY),
            query(1, ".", RecordType::NS),
            without_edns.to_vec().unwrap(),
            with_cookie(1, long, &[7; 8]).to_vec().unwrap(),
            with_cookie(1, long, &[7; 16]).to_vec().unwrap(),
            with_cookie(1, long, &[7; 24]).to_vec().unwrap(),
            vec![0; 12],
            vec![0; 300],
            [&query(1, long, RecordType::A)[..], &[0]].concat(),
        ] {
            // A second may pass meanwhile, and grant one more: it is taken back by the ones before.
            let queries = vec![kind; 40];
            let (sent, replies) = (queries.iter().map(Vec::len).sum::<usize>(), exchanged(&proxy, &queries).await);
            let received = replies.iter().map(Vec::len).sum::<usize>();
            let granted = replies.iter().filter(|reply| reply.len() > queries[0].len()).count();
            assert!(granted <= 2, "{granted} were made larger");
            let unlimited: usize = replies.iter().map(Vec::len).filter(|length| *length > queries[0].len()).sum();
            assert!(received - unlimited <= sent, "{received} octets for {sent}");
            if slip == 0 {
                assert!(replies.len() <= 2, "{}", replies.len());
            }
        }
    }
}

#[tokio::test]
async fn what_slips_beyond_the_limit_sends_a_true_client_to_tcp() {
    let proxy = Proxy::among_strangers(NOBODY, &Authority::new(), LIMITED);
    let queries: Vec<_> = (0..25).map(|id| query(id, "localhost.", RecordType::A)).collect();
    let replies = exchanged(&proxy, &queries).await;
    let (truncated, whole): (Vec<_>, Vec<_>) =
        replies.iter().map(|reply| Message::from_vec(reply).unwrap()).partition(|reply| reply.metadata.truncation);
    assert!((5..=7).contains(&whole.len()), "{}", whole.len());
    // Ten, as its network is a little beyond its limit, and then every second one.
    assert!((14..=16).contains(&truncated.len()), "{}", truncated.len());
    assert!(truncated.iter().all(|reply| reply.answers.is_empty()));
    assert_eq!(ask_over_tcp(proxy.address, &message(9, "localhost.", RecordType::A)).await.answers.len(), 1);
    assert!(proxy.metric("dot_proxy_dropped_total{reason=\"responses\"}").await >= 18);
}

#[tokio::test]
async fn who_shows_a_cookie_is_not_limited_and_who_shows_a_wrong_one_is_given_a_right_one() {
    let proxy = Proxy::among_strangers(NOBODY, &Authority::new(), LIMITED);
    let given = cookie_in(&ask_this(proxy.address, &with_cookie(1, "localhost.", &[7; 8])).await);
    assert_eq!((given.len(), &given[..8]), (24, &[7; 8][..]));
    let queries: Vec<_> = (0..50).map(|id| with_cookie(id, "localhost.", &given).to_vec().unwrap()).collect();
    let replies = exchanged(&proxy, &queries).await;
    assert_eq!(replies.len(), 50);
    for reply in &replies {
        let reply = Message::from_vec(reply).unwrap();
        assert_eq!((code(&reply), reply.answers.len(), cookie_in(&reply)), (0, 1, given.clone()));
    }
    let mut wrong = given.clone();
    wrong[23] ^= 1;
    let queries: Vec<_> = (0..10).map(|id| with_cookie(id, "localhost.", &wrong).to_vec().unwrap()).collect();
    let replies = exchanged(&proxy, &queries).await;
    let refused: Vec<_> =
        replies.iter().map(|reply| Message::from_vec(reply).unwrap()).filter(|reply| code(reply) == 23).collect();
    assert!(refused.len() >= 4, "{}", replies.len());
    assert!(refused.iter().all(|reply| reply.answers.is_empty()));
    // With what BADCOOKIE told it is served.
    let again = ask_this(proxy.address, &with_cookie(3, "localhost.", &cookie_in(&refused[0]))).await;
    assert_eq!(again.answers.len(), 1);
    for worth in ["valid", "asked-for", "invalid"] {
        assert!(proxy.metric(&format!("dot_proxy_client_cookies_total{{cookie=\"{worth}\"}}")).await > 0, "{worth}");
    }
}

#[tokio::test]
async fn a_cookie_of_an_impossible_length_makes_the_query_malformed() {
    let proxy = Proxy::among_strangers(NOBODY, &Authority::new(), "");
    let reply = exchange(proxy.address, &[&with_cookie(1, "localhost.", &[7; 9]).to_vec().unwrap()]).await;
    assert_eq!((reply.len(), reply[3] & 15), (12, 1));
}

#[tokio::test]
async fn cookies_come_over_tcp_and_with_answers_of_upstreams_and_can_be_turned_off() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::asking(&server, &authority);
    let asking = with_cookie(1, "www.example.com.", &[7; 8]);
    for reply in [ask_this(proxy.address, &asking).await, ask_over_tcp(proxy.address, &asking).await] {
        assert_eq!((cookie_in(&reply).len(), reply.answers.len()), (24, 1));
    }
    // Nobody upstream is to know the client by it.
    let told = Message::from_vec(&server.queries()[0]).unwrap();
    assert!(told.edns.unwrap().option(EdnsCode::Cookie).is_none());
    let without = Proxy::with(&[&server.url()], &authority, "clients: {cookies: false}");
    for cookie in [&[7; 8][..], &[7; 24]] {
        let reply = ask_this(without.address, &with_cookie(1, "www.example.com.", cookie)).await;
        assert!(reply.edns.unwrap().option(EdnsCode::Cookie).is_none());
    }
}

#[tokio::test]
async fn who_asks_for_all_types_gets_little_in_a_datagram_and_all_over_tcp() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "cluster: {domain: cluster.local}");
    let any = message(1, "www.example.com.", RecordType::ANY);
    for _ in 0..2 {
        let reply = ask_this(proxy.address, &any).await;
        let RData::HINFO(info) = &reply.answers[0].data else { panic!("{reply}") };
        assert_eq!((&*info.cpu, reply.answers.len()), (&b"RFC8482"[..], 1));
        ask_over_tcp(proxy.address, &any).await;
        assert_eq!(server.asked().len(), 1);
    }
    let impossible = ask_this(proxy.address, &message(1, "www.example.com.cluster.local.", RecordType::ANY)).await;
    assert_eq!(impossible.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_response_is_never_answered() {
    let proxy = Proxy::with(NOBODY, &Authority::new(), "");
    let mut response = query(1, "localhost.", RecordType::A);
    response[2] |= 0x80;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in [response, query(2, "localhost.", RecordType::A)] {
        socket.send_to(&datagram, proxy.address).await.unwrap();
    }
    assert_eq!(receive_datagram(&socket).await[..2], [0, 2]);
    assert_eq!(proxy.metric("dot_proxy_dropped_total{reason=\"not-a-query\"}").await, 1);
}
