//! Upstreams are proved before anybody depends on them: by their own transport, strictly.

use std::time::Duration;

use dot_proxy::prove::{Cause, Proof, Unproved, route, servers};
use dot_proxy_config::{Config, Route, Upstream};
use hickory_proto::op::ResponseCode;

use crate::authority::{Authority, NAME};
use crate::blackhole::Blackhole;
use crate::quic_server::{Act, QuicServer};
use crate::reaction::Reaction;
use crate::server::{Server, unused_address};
use crate::unbound::Unbound;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(2);

fn upstream(authority: &Authority, urls: &[&str], more: &str) -> Upstream {
    let ca = authority.pem().replace('\n', "\\n");
    let yaml = format!("upstream: {{servers: {urls:?}, ca: \"{ca}\", {more}}}");
    Config::from_yaml(&yaml).unwrap().upstream
}

async fn outcomes(upstream: &Upstream) -> Vec<Result<(), Unproved>> {
    servers(upstream, PATIENCE).await.unwrap().into_iter().map(|proof| proof.outcome.map(drop)).collect()
}

#[tokio::test]
async fn real_resolvers_are_proved_by_each_transport() {
    let authority = Authority::new();
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n";
    let resolver = Unbound::serving("example.com.", zone, &authority).await;
    let quic = QuicServer::that(&authority, |_, _| Act::Answer);
    let urls = [resolver.url(), resolver.https_url(), quic.url()];
    let proofs = servers(&upstream(&authority, &urls.each_ref().map(String::as_str), ""), PATIENCE).await.unwrap();
    for (proof, url) in proofs.iter().zip(&urls) {
        assert_eq!(&proof.server, url);
        assert!(proof.outcome.is_ok_and(|took| took < PATIENCE), "{proof:?}");
    }
    assert_eq!(proofs.len(), 3);
}

#[tokio::test]
async fn who_does_not_prove_who_it_is_gets_no_query_and_is_told_apart() {
    let (authority, other) = (Authority::new(), Authority::new());
    let misnamed = Server::tls_with_certificate(&authority, "other.test", 2099).await;
    let expired = Server::tls_with_certificate(&authority, NAME, 2021).await;
    let unknown = Server::tls(&other).await;
    let (good, blackhole) = (Server::tls(&authority).await, Blackhole::new());
    let gone = unused_address();
    let urls =
        [misnamed.url(), expired.url(), unknown.url(), blackhole.url(), format!("tls://{gone}#{NAME}"), good.url()];
    let failed = |cause| Err(Unproved::Failed(cause));
    assert_eq!(
        outcomes(&upstream(&authority, &urls.each_ref().map(String::as_str), "")).await,
        [
            failed(Cause::CertificateNameMismatch),
            failed(Cause::CertificateExpired),
            failed(Cause::CertificateUnknownIssuer),
            failed(Cause::ConnectionTimedOut),
            failed(Cause::ConnectionRefused),
            Ok(()),
        ]
    );
    for server in [&misnamed, &expired, &unknown] {
        assert!(server.asked().is_empty());
    }
    assert_eq!(good.asked(), ["localhost."]);
    until("the connection is closed again", async || good.open_connections() == 0).await;
}

#[tokio::test]
async fn a_server_that_has_another_key_than_the_pinned_one_is_not_proved() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let pins = format!("pins: [\"sha256/{}=\"]", "A".repeat(43));
    let outcomes = outcomes(&upstream(&authority, &[&server.url()], &pins)).await;
    assert_eq!(outcomes, [Err(Unproved::Failed(Cause::CertificatePinMismatch))]);
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_us_or_says_nothing_is_not_proved_and_one_that_fails_at_a_name_is() {
    let authority = Authority::new();
    let refusing = Reaction::Altered(|reply| reply.metadata.response_code = ResponseCode::Refused);
    let failing = Reaction::Altered(|reply| reply.metadata.response_code = ResponseCode::ServFail);
    let refusing = Server::tls_that(&authority, move |_, _| refusing).await;
    let silent = Server::tls_that(&authority, |_, _| Reaction::Silence).await;
    let failing = Server::tls_that(&authority, move |_, _| failing).await;
    let urls = [refusing.url(), silent.url(), failing.url()];
    let proved = outcomes(&upstream(&authority, &urls.each_ref().map(String::as_str), "")).await;
    assert_eq!(proved, [Err(Unproved::Refused), Err(Unproved::Failed(Cause::QueryTimedOut)), Ok(())]);
}

#[tokio::test]
async fn what_programs_would_ask_is_proved_without_them_and_an_unusable_upstream_is_told_by_its_field() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let by_kdig = upstream(&authority, &[&server.url()], "protocol: kdig");
    assert_eq!(outcomes(&by_kdig).await, [Ok(())]);
    let unusable = Upstream { ca: None, ca_file: Some("/nonexistent/ca.pem".into()), ..by_kdig };
    let error: Result<Vec<Proof>, _> = servers(&unusable, PATIENCE).await;
    assert!(error.unwrap_err().to_string().starts_with("upstream.caFile: "));
}

#[tokio::test]
async fn servers_of_a_route_are_asked_for_its_zone_and_pins_are_not_theirs() {
    let authority = Authority::new();
    let (encrypted, plain, unknown) = (
        Server::tls(&authority).await,
        Server::plain(|_, _| Reaction::Answer).await,
        Server::tls(&Authority::new()).await,
    );
    let gone = unused_address();
    let pins = format!("pins: [\"sha256/{}=\"]", "A".repeat(43));
    let pinned = upstream(&authority, &[&encrypted.url()], &pins);
    let urls = [encrypted.url(), format!("udp://{}", plain.address), unknown.url(), format!("udp://{gone}")];
    let written = Route::new(
        vec!["corp.example".parse().unwrap(), "corp.test".parse().unwrap()],
        urls.iter().map(|url| url.parse().unwrap()).collect(),
    );
    let proofs = route(&pinned, &written, PATIENCE).await.unwrap();
    let failed = |cause| Err(Unproved::Failed(cause));
    assert_eq!(
        proofs.into_iter().map(|proof| proof.outcome.map(drop)).collect::<Vec<_>>(),
        [Ok(()), Ok(()), failed(Cause::CertificateUnknownIssuer), failed(Cause::ConnectionRefused)]
    );
    for server in [&encrypted, &plain] {
        assert_eq!(server.asked(), ["corp.example."]);
    }
    assert!(unknown.asked().is_empty());
    let empty = Route::new(Vec::new(), written.servers);
    let error = route(&pinned, &empty, PATIENCE).await.unwrap_err();
    assert!(error.to_string().starts_with("routes[0].suffixes: "), "{error}");
}
