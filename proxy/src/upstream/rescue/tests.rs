//! Scenarios with paused time: what a client notices, and what the servers are asked.

use super::*;
use crate::upstream::scripted::{Mood, Scripted, question};
use crate::upstream::server::Metrics;
use crate::wire::flag;
use crate::wire::response::TtlBounds;
use dot_proxy_config::Strategy;
use tokio::runtime::Handle;

const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };
const BOUNDS: TtlBounds = TtlBounds { min: 0, max: 86_400 };
const MILLI: Duration = Duration::from_millis(1);

fn group(strategy: Strategy, servers: &[&Scripted]) -> Group {
    let servers = servers.iter().map(|server| server.configured()).collect();
    Group::new("test", servers, strategy, BOUNDS, &Metrics::default(), Handle::current())
}

/// Asks as a lookup does that finds no open connection; what came of it, and how long that took.
async fn ask(group: &Group, name: &str) -> (Result<(), Cause>, Duration) {
    let (began, bytes) = (Instant::now(), question(name));
    let before: Before<std::future::Pending<Result<Answer, Cause>>> = Before::Nothing;
    let question = Question::starting(&bytes).unwrap();
    let outcome = Rescue::by(group, ASKED, question, began + Duration::from_secs(4)).run(before).await;
    (outcome.map(drop).map_err(|failure| failure.cause), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_healthy_server_is_asked_once() {
    let server = Scripted::answering(40 * MILLI);
    let group = group(Strategy::Ordered, &[&server]);
    for _ in 0..20 {
        assert_eq!(ask(&group, "a.example").await.0, Ok(()));
    }
    assert_eq!((server.asked().len(), server.connections()), (20, 1));
}

#[tokio::test(start_paused = true)]
async fn when_a_server_falls_silent_the_next_one_answers_within_a_tenth_of_a_second() {
    let (first, second) = (Scripted::answering(MILLI), Scripted::answering(MILLI));
    let group = group(Strategy::Ordered, &[&first, &second]);
    let _ = ask(&group, "a.example").await;
    first.turns(Mood::Silent);
    for index in 0..20 {
        let (outcome, took) = ask(&group, &format!("n{index}.example")).await;
        assert_eq!(outcome, Ok(()));
        assert!(took < 100 * MILLI, "{took:?}");
    }
    // One query or two found out; the others went to the second server at once.
    assert!(first.asked().len() <= 4, "{:?}", first.asked());
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_asked_for_a_second_time_without_end() {
    let (first, second) = (Scripted::answering(MILLI), Scripted::answering(MILLI));
    let group = group(Strategy::Ordered, &[&first, &second]);
    for _ in 0..10 {
        let _ = ask(&group, "a.example").await;
    }
    // Names that take the first server long to resolve; it answers others all the while.
    first.turns(Mood::Answers(300 * MILLI));
    for index in 0..400 {
        let _ = ask(&group, &format!("n{index}.example")).await;
    }
    let asked = first.asked().len() + second.asked().len();
    assert!(asked < 410 * 12 / 10, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_every_answer_loses_no_query() {
    let server = Scripted::new(Mood::OneAnswer, 300);
    let group = Arc::new(group(Strategy::Ordered, &[&server]));
    let asking = (0..30).map(|index| {
        let group = Arc::clone(&group);
        tokio::spawn(async move { ask(&group, &format!("n{index}.example")).await.0 })
    });
    for one in asking.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert_eq!(server.connections(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_but_closes_is_given_up_with_the_cause() {
    let server = Scripted::new(Mood::Closes, 300);
    let group = group(Strategy::Ordered, &[&server]);
    let (outcome, took) = ask(&group, "a.example").await;
    assert_eq!(outcome, Err(Cause::ConnectionClosed));
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.connections() <= 16, "{}", server.connections());
}

#[tokio::test(start_paused = true)]
async fn an_only_server_that_is_silent_is_asked_again_on_a_fresh_connection() {
    let server = Scripted::new(Mood::Silent, 300);
    let group = group(Strategy::Ordered, &[&server]);
    let asking = async {
        tokio::time::sleep(10 * MILLI).await;
        // What was asked stays without an answer, but who connects from now on is served.
        server.turns(Mood::Answers(MILLI));
    };
    let (outcome, ()) = tokio::join!(ask(&group, "a.example"), asking);
    assert_eq!(outcome.0, Ok(()));
    assert!(outcome.1 < 300 * MILLI, "{:?}", outcome.1);
    assert_eq!(server.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_all_refuse_the_failure_comes_at_once_and_the_answer_soon_after_one_is_back() {
    let (first, second) = (Scripted::new(Mood::Refuses, 300), Scripted::new(Mood::Refuses, 300));
    let group = group(Strategy::Fastest, &[&first, &second]);
    let (outcome, took) = ask(&group, "a.example").await;
    assert_eq!(outcome, Err(Cause::ConnectionRefused));
    assert!(took < 50 * MILLI, "{took:?}");
    assert_eq!(group.failing().map(|failure| failure.cause), Some(Cause::ConnectionRefused));
    for _ in 0..200 {
        let _ = ask(&group, "a.example").await;
        tokio::time::sleep(10 * MILLI).await;
    }
    second.turns(Mood::Answers(MILLI));
    let back = Instant::now();
    while ask(&group, "a.example").await.0.is_err() {
        tokio::time::sleep(MILLI).await;
    }
    assert!(back.elapsed() <= 20 * MILLI, "{:?}", back.elapsed());
    assert_eq!(group.failing(), None);
}

#[tokio::test(start_paused = true)]
async fn the_next_server_is_asked_about_what_one_could_not_resolve_and_a_failure_of_both_is_passed_on() {
    const SERVFAIL: u8 = 2;
    let (first, second) = (Scripted::new(Mood::Fails(SERVFAIL), 300), Scripted::answering(MILLI));
    let group = group(Strategy::Ordered, &[&first, &second]);
    assert_eq!(ask(&group, "a.example").await.0, Ok(()));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
    second.turns(Mood::Fails(SERVFAIL));
    let bytes = question("b.example");
    let before: Before<std::future::Pending<Result<Answer, Cause>>> = Before::Nothing;
    let deadline = Instant::now() + Duration::from_secs(4);
    let answer = Rescue::by(&group, ASKED, Question::starting(&bytes).unwrap(), deadline).run(before).await.unwrap();
    assert_eq!(answer.rcode().0, u16::from(SERVFAIL));
}

#[tokio::test(start_paused = true)]
async fn a_silent_group_ends_at_the_deadline_with_the_cause() {
    let server = Scripted::new(Mood::Silent, 300);
    let group = group(Strategy::Ordered, &[&server]);
    let (outcome, took) = ask(&group, "a.example").await;
    assert_eq!(outcome, Err(Cause::QueryTimedOut));
    assert!(took > Duration::from_secs(4) - 10 * MILLI && took <= Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_retired_is_asked_by_no_rescue_not_even_again() {
    let (first, second) = (Scripted::new(Mood::Silent, 300), Scripted::answering(MILLI));
    let group = group(Strategy::Ordered, &[&first, &second]);
    group.servers()[0].retire();
    assert_eq!(ask(&group, "a.example").await.0, Ok(()));
    second.turns(Mood::Silent);
    // One is under way at the second server, and its fresh connection is planned, when that one is retired too.
    let retired = async {
        tokio::time::sleep(100 * MILLI).await;
        group.servers()[1].retire();
    };
    let ((outcome, took), ()) = tokio::join!(ask(&group, "b.example"), retired);
    assert!(outcome.is_err() && took <= 110 * MILLI, "{took:?}");
    assert_eq!((first.connections(), first.asked().len(), second.connections()), (0, 0, 1));
    let (outcome, took) = ask(&group, "c.example").await;
    assert!(outcome.is_err() && took < MILLI, "{took:?}");
    assert_eq!(second.asked(), ["a.example.", "b.example."]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_lost_a_server_is_of_another_lineage_and_one_that_gained_one_is_not() {
    let (first, second) = (Scripted::answering(MILLI), Scripted::answering(MILLI));
    let both = Arc::new(group(Strategy::Ordered, &[&first, &second]));
    let servers = both.servers().to_vec();
    let one = Arc::new(both.succeeded_by(vec![Arc::clone(&servers[1])], Strategy::Ordered, BOUNDS));
    assert_ne!(one.lineage(), both.lineage());
    let again = one.succeeded_by(servers.clone(), Strategy::Fastest, BOUNDS);
    assert_eq!(again.lineage(), one.lineage());
    assert!(both.is_the_same_with(&servers, Strategy::Ordered, BOUNDS));
    assert!(Arc::ptr_eq(&both, &both.without_others_than(servers)));
}
