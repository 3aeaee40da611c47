//! Names of the cluster go to cluster DNS and nowhere else; other names never do.

use std::collections::HashSet;

use hickory_proto::op::{Message, ResponseCode};

use crate::authority::Authority;
use crate::client::{ask, extended_error};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::{Server, unused_address};

fn proxy_in_cluster(upstream: &Server, cluster_dns: std::net::SocketAddr, authority: &Authority) -> Proxy {
    let more = format!(
        "routes: [{{suffixes: [cluster.local, corp.example], servers: [\"udp://{cluster_dns}\"]}}]\ncluster: {{domain: cluster.local}}\nquery: {{deadlineMilliseconds: 1500}}"
    );
    Proxy::with(&[&upstream.url()], authority, &more)
}

async fn both(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> (Server, Server, Proxy) {
    let authority = Authority::new();
    let (upstream, cluster_dns) = (Server::tls(&authority).await, Server::plain(react).await);
    let proxy = proxy_in_cluster(&upstream, cluster_dns.address, &authority);
    (upstream, cluster_dns, proxy)
}

#[tokio::test]
async fn each_name_goes_where_its_suffix_says() {
    let (upstream, cluster_dns, proxy) = both(|_, _| Reaction::Answer).await;
    for name in ["web.demo.svc.cluster.local.", "host.corp.example.", "www.example.com."] {
        assert_eq!(ask(proxy.address, name).await.answers.len(), 1, "{name}");
    }
    assert_eq!(cluster_dns.asked(), ["web.demo.svc.cluster.local.", "host.corp.example."]);
    assert_eq!(upstream.asked(), ["www.example.com."]);
}

#[tokio::test]
async fn a_name_of_the_cluster_stays_inside_even_when_cluster_dns_is_down() {
    let authority = Authority::new();
    let upstream = Server::tls(&authority).await;
    let nobody = unused_address();
    let proxy = proxy_in_cluster(&upstream, nobody, &authority);
    let reply = ask(proxy.address, "web.demo.svc.cluster.local.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(extended_error(&reply).starts_with("connection-refused at udp://"));
    assert!(upstream.asked().is_empty());
}

#[tokio::test]
async fn what_no_cluster_contains_is_answered_without_asking_anybody() {
    let (upstream, cluster_dns, proxy) = both(|_, _| Reaction::Answer).await;
    let reply = ask(proxy.address, "www.example.com.cluster.local.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities.len(), 1);
    assert!(upstream.asked().is_empty() && cluster_dns.asked().is_empty());
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    let (_, cluster_dns, proxy) = both(|_, count| if count == 1 { Reaction::Silence } else { Reaction::Answer }).await;
    assert_eq!(ask(proxy.address, "web.demo.svc.cluster.local.").await.answers.len(), 1);
    assert_eq!((cluster_dns.asked().len(), cluster_dns.connections()), (2, 0));
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_asked_over_tcp() {
    // The server truncates what comes by UDP, and answers in full what comes by TCP.
    let (_, cluster_dns, proxy) = both(|_, _| Reaction::Truncate).await;
    assert_eq!(ask(proxy.address, "web.demo.svc.cluster.local.").await.answers.len(), 1);
    assert_eq!(cluster_dns.connections(), 1);
}

#[tokio::test]
async fn a_server_that_is_silent_over_udp_is_asked_over_tcp() {
    let (_, cluster_dns, proxy) = both(|_, count| if count <= 3 { Reaction::Silence } else { Reaction::Answer }).await;
    assert_eq!(ask(proxy.address, "web.demo.svc.cluster.local.").await.answers.len(), 1);
    assert_eq!((cluster_dns.asked().len(), cluster_dns.connections()), (4, 1));
}

const NAME: &str = "web.demo.svc.cluster.local.";

/// Strays that were counted for this reason.
async fn strays(proxy: &Proxy, why: &str) -> u64 {
    let (_, metrics) = proxy.admin("/metrics").await;
    let why = format!("why=\"{why}\"");
    let of_strays = metrics.lines().filter(|line| line.starts_with("dot_proxy_upstream_strays_total{"));
    of_strays
        .filter(|line| line.contains(&why))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn what_a_forger_must_guess_is_another_for_each_query() {
    let (_, cluster_dns, proxy) = both(|_, _| Reaction::Answer).await;
    for index in 0..40 {
        let name = format!("web-{index}.web.demonstration.svc.cluster.local.");
        assert_eq!(ask(proxy.address, &name).await.answers.len(), 1);
    }
    let queries = cluster_dns.queries();
    let ids: HashSet<_> = queries.iter().map(|query| [query[0], query[1]]).collect();
    // What follows the number is the same in all.
    let cases: HashSet<_> = queries.iter().map(|query| String::from_utf8_lossy(&query[21..52]).into_owned()).collect();
    assert!(ids.len() >= 39 && cases.len() >= 39, "{} ids, {} cases", ids.len(), cases.len());
}

#[tokio::test]
async fn forged_answers_are_counted_and_the_true_one_is_waited_for() {
    let with_another_id = |reply: &mut Message| reply.metadata.id ^= 1;
    let to_another_question = |reply: &mut Message| {
        let name = "bank.example.".parse().unwrap();
        reply.queries[0].set_name(name);
    };
    for (forge, why) in
        [(with_another_id as fn(&mut Message), "id-mismatch"), (to_another_question, "question-mismatch")]
    {
        let (_, cluster_dns, proxy) = both(move |_, _| Reaction::AfterAnAltered(forge)).await;
        assert_eq!(ask(proxy.address, NAME).await.answers.len(), 1);
        assert_eq!((cluster_dns.asked().len(), cluster_dns.connections(), strays(&proxy, why).await), (1, 0, 1));
    }
}

#[tokio::test]
async fn an_answer_in_other_letters_is_not_believed_until_tcp_has_told_the_same() {
    let forge = |reply: &mut Message| {
        let name = reply.queries[0].name().to_lowercase();
        reply.queries[0].set_name(name);
    };
    let (_, cluster_dns, proxy) = both(move |_, _| Reaction::Altered(forge)).await;
    assert_eq!(ask(proxy.address, NAME).await.answers.len(), 1);
    assert_eq!((cluster_dns.connections(), strays(&proxy, "case-mismatch").await), (1, 1));
}

#[tokio::test]
async fn with_nothing_but_forged_answers_the_query_fails_at_its_deadline() {
    let forge = |reply: &mut Message| reply.metadata.id ^= 1;
    let (_, _, proxy) = both(move |_, _| Reaction::Altered(forge)).await;
    let reply = ask(proxy.address, NAME).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(strays(&proxy, "id-mismatch").await >= 3);
}
