//! Names of the cluster go to cluster DNS and nowhere else; other names never do.

use hickory_proto::op::ResponseCode;
use tokio::net::UdpSocket;

use crate::authority::Authority;
use crate::client::{ask, extended_error};
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

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
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
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
