//! Live configuration: what changes while queries come, and what never does.

mod files;
mod load;

use std::time::Duration;

use tokio::time::Instant;

use crate::answers::is_right;
use crate::authority::{Authority, NAME};
use crate::client::ask;
use crate::https_server::{self, HttpsServer};
use crate::load::Load;
use crate::proxy::Proxy;
use crate::quic_server::{self, QuicServer};
use crate::reaction::Reaction;
use crate::server::Server;
use crate::unbound::Unbound;
use crate::volume::{Volume, config, hash};
use crate::wait::until;

/// A query of the proxy's own, by which a new server proves itself.
const PROOF: &str = "localhost.";

/// The names that clients asked of a server.
fn asked(server: &Server) -> Vec<String> {
    server.asked().into_iter().filter(|name| name != PROOF).collect()
}

async fn resolves(proxy: &Proxy, name: &str) {
    let reply = ask(proxy.address, name).await;
    assert!(is_right(&reply, reply.queries[0].name()), "{name}: {reply}");
}

async fn is_taken(proxy: &Proxy, text: &str) {
    let wanted = (hash(text), None);
    until("the configuration is taken", async || proxy.configuration().await == wanted).await;
}

async fn is_rejected(proxy: &Proxy, in_force: &str, text: &str, reason: &str) {
    let wanted = (hash(in_force), Some((hash(text), reason.to_owned())));
    until(&format!("the configuration is {reason}"), async || proxy.configuration().await == wanted).await;
}

#[tokio::test]
async fn queries_go_to_the_new_server_at_once_and_none_to_the_old_one_and_none_is_lost() {
    let authority = Authority::new();
    let (old, new) = (Server::tls(&authority).await, Server::tls(&authority).await);
    let texts = [&old, &new].map(|server| config(&authority, &[&server.url()], ""));
    let volume = Volume::holding(&texts[0]);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "first.example.com.").await;
    let load = Load::of(proxy.address, 400, Duration::from_millis(3));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let swapped = Instant::now();
    volume.swap(&texts[1]);
    until("the new server is asked", async || !asked(&new).is_empty()).await;
    println!("the new server was asked {:?} after the volume had changed", swapped.elapsed());
    assert!(swapped.elapsed() < Duration::from_secs(2), "{:?}", swapped.elapsed());
    let before = asked(&old).len();
    load.finished().await.assert_all_right();
    assert_eq!(asked(&old).len(), before, "the old server was asked after the new one");
    assert!(asked(&new).len() > 50);
    is_taken(&proxy, &texts[1]).await;
    until("the old server's connection is closed", async || old.open_connections() == 0).await;
    assert!(proxy.counts(&new.url()).await && !proxy.counts(&old.url()).await);
    assert_eq!(proxy.total("dot_proxy_config_reloads_total").await, 1);
}

#[tokio::test]
async fn of_two_the_removed_server_is_out_at_once_though_the_one_added_is_dead_and_that_one_is_taken_when_it_lives() {
    let authority = Authority::new();
    let (stays, goes, comes) =
        (Server::tls(&authority).await, Server::tls(&authority).await, Server::tls(&authority).await);
    comes.goes_away().await;
    let before = config(&authority, &[&goes.url(), &stays.url()], "");
    let after = config(&authority, &[&comes.url(), &stays.url()], "");
    let volume = Volume::holding(&before);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "first.example.com.").await;
    assert_eq!(asked(&goes), ["first.example.com."]);
    let load = Load::of(proxy.address, 300, Duration::from_millis(3));
    volume.swap(&after);
    is_rejected(&proxy, &before, &after, "unproved").await;
    let until_now = asked(&goes).len();
    let (_, told) = proxy.admin("/debug/config").await;
    assert!(told.contains(&format!("connection-refused at {}", comes.url())), "{told}");
    load.finished().await.assert_all_right();
    assert_eq!(asked(&goes).len(), until_now, "the server that was removed was asked");
    assert!(!asked(&stays).is_empty() && asked(&comes).is_empty());
    comes.comes_back().await;
    is_taken(&proxy, &after).await;
    resolves(&proxy, "last.example.com.").await;
    assert_eq!(asked(&comes), ["last.example.com."]);
}

#[tokio::test]
async fn a_replacement_that_is_dead_or_not_who_it_should_be_leaves_the_last_good_configuration_in_force() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let stranger = Server::tls(&Authority::new()).await;
    let gone = Server::tls(&authority).await;
    gone.goes_away().await;
    let good = config(&authority, &[&server.url()], "");
    let volume = Volume::holding(&good);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "first.example.com.").await;
    for (bad, cause) in [(&stranger, "certificate-unknown-issuer"), (&gone, "connection-refused")] {
        let text = config(&authority, &[&bad.url()], "");
        let load = Load::of(proxy.address, 100, Duration::from_millis(3));
        volume.swap(&text);
        is_rejected(&proxy, &good, &text, "unproved").await;
        load.finished().await.assert_all_right();
        assert!(proxy.admin("/debug/config").await.1.contains(cause));
        assert!(asked(bad).is_empty());
        assert_eq!(proxy.admin("/readyz").await.0, 200);
    }
    gone.comes_back().await;
    is_taken(&proxy, &config(&authority, &[&gone.url()], "")).await;
    resolves(&proxy, "last.example.com.").await;
    assert_eq!(asked(&gone), ["last.example.com."]);
    assert!(!proxy.counts(&stranger.url()).await, "what is not wanted any more is not counted any more");
    volume.swap(&good);
    is_taken(&proxy, &good).await;
}

#[tokio::test]
async fn what_is_not_changed_keeps_its_connection_its_counters_and_its_answers() {
    let authority = Authority::new();
    let (first, second) = (Server::tls(&authority).await, Server::tls(&authority).await);
    let corp = Server::plain(|_, _| Reaction::Answer).await;
    let route = format!("routes: [{{suffixes: [corp.example], servers: [\"udp://{}\"]}}]", corp.address);
    let before = config(&authority, &[&first.url()], &route);
    let volume = Volume::holding(&before);
    let proxy = Proxy::watching(&volume.file());
    for name in ["www.example.com.", "www.corp.example."] {
        resolves(&proxy, name).await;
    }
    // One more server, and another strategy: whatever the first has answered is still true.
    let both = config(&authority, &[&second.url(), &first.url()], &route);
    volume.swap(&both);
    is_taken(&proxy, &both).await;
    for name in ["www.example.com.", "www.corp.example."] {
        resolves(&proxy, name).await;
    }
    assert_eq!((asked(&first).len(), asked(&second).len(), asked(&corp).len()), (1, 0, 1));
    resolves(&proxy, "fresh.example.com.").await;
    assert_eq!((first.connections(), asked(&second).len()), (1, 1));
    // The first is gone, and its answers with it; not those of the route.
    let other = config(&authority, &[&second.url()], &route);
    volume.swap(&other);
    is_taken(&proxy, &other).await;
    for name in ["www.example.com.", "www.corp.example."] {
        resolves(&proxy, name).await;
    }
    assert_eq!((asked(&first).len(), asked(&second).len(), asked(&corp).len()), (1, 2, 1));
    assert_eq!((second.connections(), corp.asked().len()), (1, 1));
    let counted = format!("dot_proxy_upstream_queries_total{{group=\"upstream\",server=\"{}\"}}", second.url());
    assert_eq!(proxy.metric(&counted).await, 3); // the proof among them
    assert!(!proxy.counts(&first.url()).await);
}

#[tokio::test]
async fn queries_under_way_are_answered_by_the_server_that_has_them_or_by_the_one_that_takes_its_place() {
    let authority = Authority::new();
    let slow = Server::tls_that(&authority, |name, _| match name {
        name if name.starts_with("late") => Reaction::Late(Duration::from_millis(600)),
        name if name.starts_with("never") => Reaction::Silence,
        _ => Reaction::Answer,
    });
    let (slow, new) = (slow.await, Server::tls(&authority).await);
    let texts = [&slow, &new].map(|server| config(&authority, &[&server.url()], ""));
    let volume = Volume::holding(&texts[0]);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "first.example.com.").await;
    let late = Load::asking(proxy.address, 40, Duration::from_millis(1), |index| format!("late{index}.example.com."));
    let never = Load::asking(proxy.address, 40, Duration::from_millis(1), |index| format!("never{index}.example.com."));
    until("all are under way", async || asked(&slow).len() > 80).await;
    volume.swap(&texts[1]);
    late.finished().await.assert_all_right();
    let never = never.finished().await;
    never.assert_all_right();
    never.assert_none_later_than(Duration::from_secs(2));
    // What the old server still answered was for those who had asked before: it is not kept.
    resolves(&proxy, "late0.example.com.").await;
    assert!(asked(&new).contains(&"late0.example.com.".to_owned()));
}

#[tokio::test]
async fn a_route_that_is_added_holds_when_its_server_has_answered_and_what_it_covers_goes_nowhere_else_from_then_on() {
    let authority = Authority::new();
    let (public, corp) = (Server::tls(&authority).await, Server::plain(|_, _| Reaction::Answer).await);
    let route = format!("routes: [{{suffixes: [corp.example], servers: [\"udp://{}\"]}}]", corp.address);
    let (before, after) = (config(&authority, &[&public.url()], ""), config(&authority, &[&public.url()], &route));
    let volume = Volume::holding(&before);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "a.corp.example.").await;
    volume.swap(&after);
    is_taken(&proxy, &after).await;
    for name in ["a.corp.example.", "b.corp.example."] {
        resolves(&proxy, name).await;
    }
    assert_eq!(asked(&public), ["a.corp.example."]);
    assert_eq!(corp.asked(), ["corp.example.", "a.corp.example.", "b.corp.example."]);
}

#[tokio::test]
async fn beside_a_route_whose_server_is_dead_a_removed_server_is_out_and_no_name_goes_where_it_should_not() {
    let authority = Authority::new();
    let (stays, goes) = (Server::tls(&authority).await, Server::tls(&authority).await);
    let (corp, dead) = (Server::plain(|_, _| Reaction::Answer).await, Server::plain(|_, _| Reaction::Silence).await);
    let route =
        |server: &Server| format!("routes: [{{suffixes: [corp.example], servers: [\"udp://{}\"]}}]", server.address);
    let before = config(&authority, &[&goes.url(), &stays.url()], &route(&corp));
    let after = config(&authority, &[&stays.url()], &route(&dead));
    let volume = Volume::holding(&before);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "a.example.com.").await;
    volume.swap(&after);
    until("the removed one is out of use", async || goes.open_connections() == 0).await;
    for name in ["b.example.com.", "b.corp.example."] {
        resolves(&proxy, name).await;
    }
    is_rejected(&proxy, &before, &after, "unproved").await;
    assert_eq!(asked(&goes), ["a.example.com."]);
    assert_eq!(asked(&stays).last().map(String::as_str), Some("b.example.com."));
    assert_eq!(corp.asked(), ["b.corp.example."]);
}

#[tokio::test]
async fn each_transport_takes_the_place_of_another_and_leaves_no_connection_behind() {
    let authority = Authority::new();
    let tls = Server::tls(&authority).await;
    let https = HttpsServer::that(&authority, |_, _| https_server::Act::Answer).await;
    let quic = QuicServer::that(&authority, |_, _| quic_server::Act::Answer);
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* A 192.0.2.7\n";
    let unbound = Unbound::serving("example.com.", zone, &authority).await;
    let urls = [tls.url(), https.url(), quic.url(), unbound.url(), unbound.https_url()];
    let volume = Volume::holding(&config(&authority, &[&urls[0]], ""));
    let proxy = Proxy::watching(&volume.file());
    for (index, url) in urls.iter().enumerate().chain([(0, &urls[0])]) {
        let text = config(&authority, &[url], "");
        volume.swap(&text);
        is_taken(&proxy, &text).await;
        assert_eq!(ask(proxy.address, &format!("n{index}.example.com.")).await.answers.len(), 1, "{url}");
        let open = [tls.open_connections(), https.open_connections(), quic.open_connections()];
        let wanted = [0, 1, 2].map(|server| usize::from(server == index));
        until(&format!("only {url} has a connection, not {open:?}"), async || {
            [tls.open_connections(), https.open_connections(), quic.open_connections()] == wanted
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_of_another_server_at_the_same_address_is_another_server() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let good = config(&authority, &[&server.url()], "");
    let volume = Volume::holding(&good);
    let proxy = Proxy::watching(&volume.file());
    resolves(&proxy, "first.example.com.").await;
    let other_name = config(&authority, &[&server.url().replace(NAME, "other.test")], "");
    volume.swap(&other_name);
    is_rejected(&proxy, &good, &other_name, "unproved").await;
    // Nor is it the same with other CAs.
    let other_authority = config(&Authority::new(), &[&server.url()], "");
    volume.swap(&other_authority);
    is_rejected(&proxy, &good, &other_authority, "unproved").await;
    resolves(&proxy, "last.example.com.").await;
    assert!(proxy.counts(&server.url()).await);
}
