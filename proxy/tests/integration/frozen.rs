//! A real resolver that is stopped (SIGSTOP) under load: its kernel takes everything, and nothing comes back.

use std::fmt::Write as _;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::Instant;

use crate::answers::address_of;
use crate::authority::Authority;
use crate::client::{ask, extended_error};
use crate::load::{Load, nth_name};
use crate::proxy::Proxy;
use crate::unbound::Unbound;

/// How long the resolver is stopped; longer than a query's deadline, and than libc waits.
const FROZEN_FOR: Duration = Duration::from_secs(5);

/// How long the resolvers answer first.
const ALL_IS_WELL: Duration = Duration::from_millis(500);

/// How often the clients ask.
const EVERY: Duration = Duration::from_millis(10);

/// unbound with the right address of each name that a load asks for.
async fn resolver(authority: &Authority) -> Unbound {
    let mut zone =
        "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n".to_owned();
    for index in 0..1000 {
        let name = nth_name(index);
        writeln!(zone, "{name} A {}", address_of(&Name::from_ascii(&name).unwrap())).unwrap();
    }
    Unbound::serving("example.com.", &zone, authority).await
}

/// Asks a name: while nothing is known of any server, a query may take its time.
async fn get_acquainted(proxy: &Proxy) {
    assert_eq!(ask(proxy.address, &nth_name(999)).await.answers.len(), 1);
}

#[tokio::test]
async fn no_query_is_late_or_asked_of_everybody_when_one_of_two_resolvers_freezes() {
    let authority = Authority::new();
    let (first, second) = (resolver(&authority).await, resolver(&authority).await);
    let proxy = Proxy::with(&[&first.url(), &second.url()], &authority, "");
    get_acquainted(&proxy).await;
    let load = Load::of(proxy.address, 700, EVERY);
    for resolver in [&first, &second] {
        // Whichever is in use when it happens.
        tokio::time::sleep(ALL_IS_WELL).await;
        resolver.freeze();
        tokio::time::sleep(FROZEN_FOR / 2).await;
        resolver.thaw();
    }
    assert_that_nobody_noticed(load, &proxy).await;
}

#[tokio::test]
async fn a_resolver_that_stays_frozen_costs_nothing_but_the_first_wait() {
    let authority = Authority::new();
    let (first, second) = (resolver(&authority).await, resolver(&authority).await);
    let proxy = Proxy::with(&[&first.url(), &second.url()], &authority, "");
    get_acquainted(&proxy).await;
    let load = Load::of(proxy.address, 600, EVERY);
    tokio::time::sleep(ALL_IS_WELL).await;
    first.freeze();
    assert_that_nobody_noticed(load, &proxy).await;
}

async fn assert_that_nobody_noticed(load: Load, proxy: &Proxy) {
    let outcomes = load.finished().await;
    outcomes.assert_all_right();
    outcomes.assert_none_later_than(Duration::from_millis(100));
    outcomes.assert_few_upstream_queries(proxy.total("dot_proxy_upstream_queries_total").await, 1.1);
}

#[tokio::test]
async fn the_only_resolver_frozen_for_five_seconds_ends_in_servfail_and_then_in_answers() {
    let authority = Authority::new();
    let only = resolver(&authority).await;
    let proxy = Proxy::with(&[&only.url()], &authority, "");
    get_acquainted(&proxy).await;
    let load = Load::of(proxy.address, 650, EVERY);
    tokio::time::sleep(ALL_IS_WELL).await;
    only.freeze();
    tokio::time::sleep(FROZEN_FOR).await;
    only.thaw();
    let back = Instant::now();
    let outcomes = load.finished().await;
    outcomes.assert_none_lost_or_wrong();
    // The deadline is 4 s.
    outcomes.assert_none_later_than(Duration::from_millis(4100));
    outcomes.assert_recovered_at_the_first_success_after(back);
    outcomes.assert_success_soon_after(back);
    let first_failure =
        outcomes.all.iter().find(|outcome| outcome.has_failed()).expect("four seconds are the deadline");
    let cause = extended_error(&first_failure.reply.as_ref().unwrap().1);
    assert_eq!(cause, format!("query-timed-out at {}", only.url()));
}
