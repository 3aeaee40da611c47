//! Who is not the right server gets no query, and the client is told why.

use hickory_proto::op::ResponseCode;

use crate::authority::{Authority, NAME};
use crate::client::ask;
use crate::proxy::Proxy;
use crate::reaction::Reaction;
use crate::server::Server;

async fn refused(server: &Server, trusted: &Authority, cause: &str) {
    let proxy = Proxy::asking(server, trusted);
    proxy.fails(&server.url(), cause).await;
    assert!(server.asked().is_empty());
    let (status, body) = proxy.admin("/readyz").await;
    assert!(status == 503 && body.contains(cause), "{status} {body}");
    assert_eq!(proxy.admin("/livez").await.0, 200);
}

#[tokio::test]
async fn a_server_with_another_name_gets_no_query() {
    let authority = Authority::new();
    let server = Server::tls_with_certificate(&authority, "other.test", 2099).await;
    refused(&server, &authority, "certificate-name-mismatch").await;
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_gets_no_query() {
    let server = Server::tls(&Authority::new()).await;
    refused(&server, &Authority::new(), "certificate-unknown-issuer").await;
}

#[tokio::test]
async fn a_server_with_an_expired_certificate_gets_no_query() {
    let authority = Authority::new();
    let server = Server::tls_with_certificate(&authority, NAME, 2021).await;
    refused(&server, &authority, "certificate-expired").await;
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_gets_no_query() {
    let server = Server::plain(|_, _| Reaction::Answer).await;
    // The handshake's bytes are a frame too long for the server: it waits, and so does the client, until the deadline.
    let proxy = Proxy::with(&[&server.url()], &Authority::new(), "query: {deadlineMilliseconds: 500}");
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(server.asked().is_empty());
}
