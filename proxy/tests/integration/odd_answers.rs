//! Servers that send what was not asked for. Nobody gets another's data, and nobody's own answer is missed for it.

use std::time::Duration;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, RecordType};

use crate::authority::Authority;
use crate::client::{ask, extended_error};
use crate::load::Load;
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::Server;

/// Clients get the right answers from a server that does this with every query.
async fn right_answers_of_a_server_that_always(reaction: Reaction) -> Server {
    right_answers_of_a_server_that(move |_, _| reaction).await
}

async fn right_answers_of_a_server_that(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Server {
    let authority = Authority::new();
    let server = Server::tls_that(&authority, react).await;
    let proxy = Proxy::asking(&server, &authority);
    Load::of(proxy.address, 200, Duration::from_millis(1)).finished().await.assert_all_right();
    server
}

/// The false address in answers that must not reach anybody.
fn falsify(reply: &mut hickory_proto::op::Message) {
    reply.answers[0].data = RData::A(A::new(203, 0, 113, 1));
}

#[tokio::test]
async fn answers_out_of_order_find_their_questions() {
    let server = right_answers_of_a_server_that_always(Reaction::AnswerInReverse(20)).await;
    assert_eq!((server.asked().len(), server.connections()), (200, 1));
}

#[tokio::test]
async fn answers_that_come_as_they_like_find_their_questions() {
    let late = |_: &str, count: usize| Reaction::Late(Duration::from_millis(count as u64 * 7919 % 50));
    right_answers_of_a_server_that(late).await;
}

#[tokio::test]
async fn the_second_of_two_answers_is_dropped() {
    let server = right_answers_of_a_server_that_always(Reaction::Twice).await;
    assert_eq!((server.asked().len(), server.connections()), (200, 1));
}

#[tokio::test]
async fn an_answer_with_a_wrong_id_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterAnAltered(|reply| {
        falsify(reply);
        reply.metadata.id ^= 0x0100;
    }))
    .await;
}

#[tokio::test]
async fn an_answer_to_another_name_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterAnAltered(|reply| {
        falsify(reply);
        let other = Name::from_ascii("other.example.com.").unwrap();
        reply.queries = vec![Query::query(other.clone(), RecordType::A)];
        reply.answers[0].name = other;
    }))
    .await;
}

#[tokio::test]
async fn an_answer_to_another_type_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterAnAltered(|reply| {
        let name = reply.queries[0].name().clone();
        falsify(reply);
        reply.queries = vec![Query::query(name, RecordType::AAAA)];
    }))
    .await;
}

#[tokio::test]
async fn an_answer_without_its_question_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterAnAltered(|reply| {
        falsify(reply);
        reply.queries.clear();
    }))
    .await;
}

#[tokio::test]
async fn a_query_that_comes_as_an_answer_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterAnAltered(|reply| {
        falsify(reply);
        reply.metadata.message_type = hickory_proto::op::MessageType::Query;
    }))
    .await;
}

#[tokio::test]
async fn garbage_is_dropped() {
    right_answers_of_a_server_that_always(Reaction::AfterGarbage).await;
}

/// Beside a healthy server, a server that does nothing but this costs nobody an answer.
async fn no_query_is_lost_beside_a_healthy_server_to_one_that_only(alter: fn(&mut hickory_proto::op::Message)) {
    let authority = Authority::new();
    let odd = Server::tls_that(&authority, move |_, _| Reaction::Altered(alter)).await;
    let healthy = Server::tls(&authority).await;
    let proxy = Proxy::with(&[&odd.url(), &healthy.url()], &authority, "");
    Load::of(proxy.address, 200, Duration::from_millis(2)).finished().await.assert_all_right();
    assert!(!odd.asked().is_empty());
}

#[tokio::test]
async fn no_query_is_lost_to_a_server_that_only_answers_with_wrong_ids() {
    no_query_is_lost_beside_a_healthy_server_to_one_that_only(|reply| {
        falsify(reply);
        reply.metadata.id = reply.metadata.id.wrapping_add(7);
    })
    .await;
}

#[tokio::test]
async fn no_query_is_lost_to_a_server_that_only_answers_other_questions() {
    no_query_is_lost_beside_a_healthy_server_to_one_that_only(|reply| {
        falsify(reply);
        reply.queries = vec![Query::query(Name::from_ascii("other.example.com.").unwrap(), RecordType::A)];
    })
    .await;
}

#[tokio::test]
async fn no_query_is_lost_to_a_server_that_only_answers_servfail() {
    no_query_is_lost_beside_a_healthy_server_to_one_that_only(|reply| {
        reply.answers.clear();
        reply.metadata.response_code = ResponseCode::ServFail;
    })
    .await;
}

#[tokio::test]
async fn no_query_is_lost_to_a_server_that_only_answers_refused() {
    no_query_is_lost_beside_a_healthy_server_to_one_that_only(refuse).await;
}

#[tokio::test]
async fn a_server_that_refuses_does_not_cut_short_the_wait_for_one_that_is_slow() {
    let authority = Authority::new();
    let slow = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(300))).await;
    let late_refusal = Reaction::AlteredLate(Duration::from_millis(150), refuse);
    let refusing = Server::tls_that(&authority, move |_, _| late_refusal).await;
    for strategy in ["ordered", "fastest", "round-robin"] {
        let upstream = &format!("strategy: {strategy}");
        let written = Written { upstream, ..Written::default() };
        let proxy = Proxy::written(&[&slow.url(), &refusing.url()], &authority, &written);
        Load::of(proxy.address, 50, Duration::from_millis(5)).finished().await.assert_all_right();
    }
}

fn refuse(reply: &mut hickory_proto::op::Message) {
    reply.answers.clear();
    reply.metadata.response_code = ResponseCode::Refused;
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_ends_in_servfail_with_the_cause() {
    let authority = Authority::new();
    // The header announces a record that does not come.
    let server = Server::tls_that(&authority, |_, _| Reaction::WithoutItsEnd).await;
    let proxy = Proxy::with(&[&server.url()], &authority, "query: {deadlineMilliseconds: 500}");
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_error(&reply), format!("response-malformed at {}", server.url()));
    assert!(proxy.failures(&server.url(), "response-malformed").await > 0);
}
