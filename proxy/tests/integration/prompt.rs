//! Answers come when the server has them, and not when the kernel acknowledges the one before: unbound holds them back until
//! then (Nagle's algorithm), and a delayed acknowledgement takes 40 ms.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::authority::Authority;
use crate::client::ask;
use crate::proxy::Proxy;
use crate::unbound::Unbound;

const ZONE: &str = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* A 192.0.2.7\n";

/// A busy machine may take long now and then; where an acknowledgement is waited for, it is waited for every time.
const TRIES: usize = 20;

/// The shortest time for which Linux delays an acknowledgement.
const DELAYED: Duration = Duration::from_millis(40);

#[tokio::test]
async fn the_first_answer_does_not_wait_until_the_handshake_s_last_octets_are_acknowledged() {
    let authority = Authority::new();
    let resolver = Unbound::serving("example.com.", ZONE, &authority).await;
    let mut quickest = Duration::MAX;
    for _ in 0..TRIES {
        let proxy = Proxy::with(&[&resolver.url()], &authority, "");
        let began = Instant::now();
        assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < DELAYED, "{quickest:?}");
}

#[tokio::test]
async fn an_answer_does_not_wait_until_the_one_before_is_acknowledged() {
    let authority = Authority::new();
    let resolver = Unbound::serving("example.com.", ZONE, &authority).await;
    let proxy = Proxy::with(&[&resolver.url()], &authority, "");
    let mut quickest = Duration::MAX;
    for round in 0..TRIES {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for client in 0..16 {
            let address = proxy.address;
            clients.spawn(async move { ask(address, &format!("r{round}-{client}.example.com.")).await });
        }
        assert!(clients.join_all().await.iter().all(|reply| reply.answers.len() == 1));
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < DELAYED, "{quickest:?}");
}
