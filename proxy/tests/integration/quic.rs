//! DNS over QUIC (RFC 9250): what is asked, what is taken as an answer, and what a client notices of faults.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::client::{ask, extended_error};
use crate::load::Load;
use crate::proxy::{Proxy, Written};
use crate::quic_server::{Act, QuicServer, Way};
use crate::server::Server;
use crate::wait::until;

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(2);

/// RFC 9250 §4.3.
const DOQ_NO_ERROR: u64 = 0;
const DOQ_INTERNAL_ERROR: u32 = 1;
const DOQ_PROTOCOL_ERROR: u64 = 2;
const DOQ_EXCESSIVE_LOAD: u32 = 4;

/// Twenty handshakes, one after the other, may take a busy machine longer than a query's usual time.
const PATIENT: &str = "query: {deadlineMilliseconds: 9000}";

/// Clients get right answers from a group of a server that reacts so, and no other.
async fn right_answers_of_this_server_alone(
    react: impl Fn(&str, usize) -> Act + Send + Sync + 'static,
) -> (QuicServer, Proxy) {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, react);
    let proxy = Proxy::with(&[&server.url()], &authority, PATIENT);
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
    (server, proxy)
}

/// Of all queries to the server, each tenth meets the fault.
fn each_tenth(fault: Act) -> impl Fn(&str, usize) -> Act {
    move |_, count| if count % 10 == 0 { fault } else { Act::Answer }
}

/// Each tenth name meets the fault when it is asked for the first time.
fn each_tenth_name_once(fault: Act) -> impl Fn(&str, usize) -> Act {
    let met = Mutex::new(HashSet::new());
    move |name, _| {
        let meets = name.contains("0.") && met.lock().unwrap().insert(name.to_owned());
        if meets { fault } else { Act::Answer }
    }
}

#[tokio::test]
async fn a_query_is_a_stream_of_one_padded_message_with_id_0_and_its_length_before_it() {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, |_, _| Act::Answer);
    let proxy = Proxy::with(&[&server.url()], &authority, "");
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    let framed = &server.queries()[0];
    let (length, message) = framed.split_first_chunk().unwrap();
    assert_eq!((usize::from(u16::from_be_bytes(*length)), message.len() % 128), (message.len(), 0));
    let query = Message::from_vec(message).unwrap();
    assert_eq!(query.metadata.id, 0);
    // RFC 9250 §4.3.3: edns-tcp-keepalive would be an error of the protocol.
    let options = query.edns.as_ref().unwrap().options().as_ref();
    assert_eq!(options.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [EdnsCode::Padding]);
}

#[tokio::test]
async fn all_queries_share_one_connection_and_none_waits_for_another() {
    let late = Act::Late(Duration::from_millis(100));
    let slow = move |_: &str, count: usize| if count.is_multiple_of(4) { late } else { Act::Answer };
    let (server, _) = right_answers_of_this_server_alone(slow).await;
    // On a busy machine an answer may be so late that it is looked for on a fresh connection too.
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test]
async fn a_connection_is_closed_when_idle_and_open_again_before_it_is_missed() {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, |_, _| Act::Answer);
    let written = Written { upstream: "idleSeconds: 1", ..Written::default() };
    let proxy = Proxy::written(&[&server.url()], &authority, &written);
    until("the connection is open before a query", async || server.open_connections() == 1).await;
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the idle connection is closed", async || server.open_connections() == 0).await;
    assert_eq!(server.closed_by(), [DOQ_NO_ERROR]);
    // The cache answers, and the connection is opened for who asks next.
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
    until("the connection is open again", async || server.open_connections() == 1).await;
    assert_eq!(server.queries().len(), 1);
}

/// A server with this TLS gets no query, and the client is told why.
async fn refused(tls: rustls::ServerConfig, trusted: &Authority, cause: &str) {
    let server = QuicServer::with_tls(tls, |_, _| Act::Answer);
    let proxy = Proxy::with(&[&server.url()], trusted, "");
    proxy.fails(&server.url(), cause).await;
    assert!(server.queries().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_gets_no_query() {
    let (authority, other) = (Authority::new(), Authority::new());
    refused(authority.tls("other.test", LAST_YEAR, &["doq"]), &authority, "certificate-name-mismatch").await;
    refused(authority.tls(NAME, LAST_YEAR, &["doq"]), &other, "certificate-unknown-issuer").await;
    refused(authority.tls(NAME, 2021, &["doq"]), &authority, "certificate-expired").await;
}

#[tokio::test]
async fn a_server_that_speaks_another_protocol_over_quic_gets_no_query() {
    let authority = Authority::new();
    refused(authority.tls(NAME, LAST_YEAR, &["h3"]), &authority, "tls-handshake-failed").await;
    refused(authority.tls(NAME, LAST_YEAR, &[]), &authority, "tls-handshake-failed").await;
}

#[tokio::test]
async fn pins_and_the_client_s_certificate_count_as_they_do_over_tls() {
    let authority = Authority::new();
    let server = QuicServer::with_tls(authority.tls_for_known_clients(&["doq"]), |_, _| Act::Answer);
    let client = authority.client_files();
    let no_key = "pins: [sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=]";
    for (upstream, answered) in [("", false), (client.written().as_str(), true), (no_key, false)] {
        let written = Written { upstream, more: "query: {deadlineMilliseconds: 1000}", ..Written::default() };
        let proxy = Proxy::written(&[&server.url()], &authority, &written);
        let before = server.queries().len();
        let reply = ask(proxy.address, "www.example.com.").await;
        assert_eq!(
            (!reply.answers.is_empty(), server.queries().len() > before),
            (answered, answered),
            "{upstream}: {reply}"
        );
        if upstream == no_key {
            assert_eq!(extended_error(&reply), format!("certificate-pin-mismatch at {}", server.url()));
        }
    }
}

/// What this server sends is not taken as an answer, and the client is told why.
async fn not_taken(act: Act, cause: &str) -> QuicServer {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, move |_, _| act);
    let proxy = Proxy::with(&[&server.url()], &authority, "query: {deadlineMilliseconds: 1000}");
    proxy.fails(&server.url(), cause).await;
    server
}

#[tokio::test]
async fn what_breaks_the_protocol_is_no_answer_and_ends_the_connection() {
    for act in [
        Act::Altered(|reply| reply.metadata.id = 7),
        Act::Octets(&[]),
        Act::Octets(&[0, 9, 1]),
        Act::Octets(&[0, 0, 1]),
    ] {
        let server = not_taken(act, "response-malformed").await;
        until("the connection is closed", async || server.closed_by().first() == Some(&DOQ_PROTOCOL_ERROR)).await;
    }
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken() {
    let other = |reply: &mut Message| drop(reply.queries[0].set_query_type(RecordType::AAAA).clone());
    not_taken(Act::Altered(other), "response-malformed").await;
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_resets_streams() {
    let (server, _) = right_answers_of_this_server_alone(each_tenth_name_once(Act::Reset(DOQ_INTERNAL_ERROR))).await;
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test]
async fn no_query_is_lost_when_the_server_closes_the_connection_under_open_streams() {
    let (server, proxy) = right_answers_of_this_server_alone(each_tenth(Act::Close(0))).await;
    assert!(server.connections() > 5, "{} connections", server.connections());
    assert!(proxy.failures(&server.url(), "connection-closed").await > 0);
}

#[tokio::test]
async fn a_server_that_gives_up_every_query_is_told_and_not_asked_without_end() {
    not_taken(Act::Reset(DOQ_INTERNAL_ERROR), "stream-reset").await;
    not_taken(Act::Close(DOQ_INTERNAL_ERROR), "connection-closed").await;
    let server = not_taken(Act::Reset(DOQ_EXCESSIVE_LOAD), "server-busy").await;
    assert_eq!(server.queries().len(), 1);
}

#[tokio::test]
async fn a_silent_server_costs_nobody_an_answer_beside_a_healthy_one_of_another_transport() {
    let authority = Authority::new();
    let silent = QuicServer::that(&authority, |_, _| Act::Silence);
    let healthy = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&silent.url(), &healthy.url()], &authority, "");
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
    assert!(silent.queries().len() < 60, "asked {} times", silent.queries().len());
}

#[tokio::test]
async fn no_query_is_lost_on_a_way_that_loses_every_tenth_datagram() {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, |_, _| Act::Answer);
    let way = Way::to(server.address, 10).await;
    let proxy = Proxy::with(&[&way.url()], &authority, "");
    Load::of(proxy.address, 200, EVERY).finished().await.assert_all_right();
}

#[tokio::test]
async fn nobody_notices_that_the_client_s_address_changes_on_the_way() {
    let authority = Authority::new();
    let server = QuicServer::that(&authority, |_, _| Act::Answer);
    let way = Way::to(server.address, 0).await;
    let proxy = Proxy::with(&[&way.url()], &authority, "");
    for count in 0..5 {
        assert_eq!(ask(proxy.address, &format!("n{count}.example.com.")).await.answers.len(), 1);
        way.moves().await;
    }
    assert_eq!((server.connections(), server.queries().len()), (1, 5));
}
