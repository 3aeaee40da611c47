//! How a group chooses among servers that are all well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::authority::Authority;
use crate::client::ask;
use crate::load::Load;
use crate::proxy::{Proxy, Written};
use crate::reaction::Reaction;
use crate::server::Server;
use crate::wait::until;

/// What the slower servers take; the quicker ones take next to nothing.
const SLOW: Reaction = Reaction::Late(Duration::from_millis(40));

fn choosing(strategy: &str, servers: &[&Server], authority: &Authority) -> Proxy {
    let urls: Vec<_> = servers.iter().map(|server| server.url()).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let upstream = &format!("strategy: {strategy}");
    Proxy::written(&urls, authority, &Written { upstream, ..Written::default() })
}

fn asked(servers: &[&Server]) -> Vec<usize> {
    servers.iter().map(|server| server.asked().len()).collect()
}

#[tokio::test]
async fn ordered_asks_the_first_while_it_answers_and_again_when_it_is_back() {
    let authority = Authority::new();
    let (first, second) = (Server::tls(&authority).await, Server::tls(&authority).await);
    let proxy = choosing("ordered", &[&first, &second], &authority);
    Load::of(proxy.address, 60, Duration::from_millis(4)).finished().await.assert_all_right();
    // On a busy machine an answer may be late, and the second asked for it.
    assert!(first.asked().len() >= 50 && second.asked().len() <= 15, "{:?}", asked(&[&first, &second]));
    let before = first.asked().len();
    first.goes_away().await;
    assert_eq!(ask(proxy.address, "away.example.com.").await.answers.len(), 1);
    first.comes_back().await;
    let mut count = 0;
    until("the first server is asked again", async || {
        count += 1;
        ask(proxy.address, &format!("back{count}.example.com.")).await;
        first.asked().len() > before
    })
    .await;
}

#[tokio::test]
async fn ordered_stays_with_the_first_though_another_is_quicker() {
    let authority = Authority::new();
    let slower = Server::tls_that(&authority, |_, _| Reaction::Late(Duration::from_millis(10))).await;
    let quicker = Server::tls(&authority).await;
    let proxy = choosing("ordered", &[&slower, &quicker], &authority);
    Load::of(proxy.address, 60, Duration::from_millis(4)).finished().await.assert_all_right();
    assert!(slower.asked().len() >= 45 && quicker.asked().len() <= 20, "{:?}", asked(&[&slower, &quicker]));
}

#[tokio::test]
async fn round_robin_asks_each_in_turn() {
    let authority = Authority::new();
    let (first, second, third) =
        (Server::tls(&authority).await, Server::tls(&authority).await, Server::tls(&authority).await);
    let proxy = choosing("round-robin", &[&first, &second, &third], &authority);
    Load::of(proxy.address, 90, Duration::from_millis(4)).finished().await.assert_all_right();
    let asked = asked(&[&first, &second, &third]);
    assert!(asked.iter().all(|count| (25..=35).contains(count)), "{asked:?}");
}

#[tokio::test]
async fn fastest_asks_the_quicker_server_after_few_queries() {
    let authority = Authority::new();
    let (slow, quick) = (Server::tls_that(&authority, |_, _| SLOW).await, Server::tls(&authority).await);
    let proxy = choosing("fastest", &[&slow, &quick], &authority);
    Load::asking(proxy.address, 30, Duration::from_millis(10), |index| format!("learn{index}.example.com."))
        .finished()
        .await
        .assert_all_right();
    let before = asked(&[&slow, &quick]);
    Load::of(proxy.address, 100, Duration::from_millis(5)).finished().await.assert_all_right();
    let after = asked(&[&slow, &quick]);
    let (slow, quick) = (after[0] - before[0], after[1] - before[1]);
    assert!(quick >= 90 && slow <= 15, "{quick} and {slow} of 100");
}

#[tokio::test]
async fn fastest_follows_when_the_quicker_server_becomes_the_slower_one() {
    let authority = Authority::new();
    let slower = Arc::new(AtomicBool::new(false));
    let first = {
        let slower = Arc::clone(&slower);
        let much_slower = Reaction::Late(Duration::from_millis(200));
        move |_: &str, _: usize| if slower.load(Ordering::SeqCst) { much_slower } else { Reaction::Answer }
    };
    let (first, second) = (Server::tls_that(&authority, first).await, Server::tls_that(&authority, |_, _| SLOW).await);
    let proxy = choosing("fastest", &[&first, &second], &authority);
    let learnt = |index| format!("learn{index}.example.com.");
    Load::asking(proxy.address, 50, Duration::from_millis(5), learnt).finished().await.assert_all_right();
    slower.store(true, Ordering::SeqCst);
    Load::of(proxy.address, 100, Duration::from_millis(10)).finished().await.assert_all_right();
    let before = asked(&[&first, &second]);
    let afterwards = |index| format!("afterwards{index}.example.com.");
    Load::asking(proxy.address, 50, Duration::from_millis(5), afterwards).finished().await.assert_all_right();
    let after = asked(&[&first, &second]);
    let (first, second) = (after[0] - before[0], after[1] - before[1]);
    assert!(second >= 45 && first <= 10, "{first} and {second} of 50");
}
