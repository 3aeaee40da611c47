//! A client that sends one request on one connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The HTTP that is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// Sends a request in clear.
pub(crate) async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// A certificate and its key.
pub(crate) type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Opens TLS as the API server does: to the Service's name, trusting `authority` alone.
pub(crate) async fn connect(
    address: SocketAddr,
    authority: &str,
    version: Version,
) -> std::io::Result<TlsStream<TcpStream>> {
    secure(TcpStream::connect(address).await?, authority, version, None).await
}

/// A connection from another address of this machine.
pub(crate) async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Opens TLS on a connection, showing this identity if asked.
pub(crate) async fn secure(
    stream: TcpStream,
    authority: &str,
    version: Version,
    identity: Option<Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    secure_by(&client(authority, version, identity), stream).await
}

/// A client's TLS, which remembers sessions.
pub(crate) fn client(authority: &str, version: Version, identity: Option<Identity>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if version == Version::One { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
    Arc::new(config)
}

/// Opens TLS on a connection.
pub(crate) async fn secure_by(client: &Arc<ClientConfig>, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("dot-injector.dot-sidecar.svc").unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, stream).await
}

/// Sends a request over TLS.
pub(crate) async fn send_tls(
    stream: TlsStream<TcpStream>,
    version: Version,
    request: Request<Full<Bytes>>,
) -> Response<Bytes> {
    let stream = TokioIo::new(stream);
    let response = match version {
        Version::One => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
        Version::Two => {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
    };
    whole(response).await
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}
