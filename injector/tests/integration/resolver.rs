//! A resolver over TLS that answers everything with nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A running resolver.
pub(crate) struct Resolver {
    /// How it is written as a server.
    pub(crate) url: String,
    /// Its certificate's authority, PEM.
    pub(crate) authority: String,
}

impl Resolver {
    pub(crate) async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["dns.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("tls://{}#dns.example", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { answer(acceptor.accept(stream).await?).await });
            }
        });
        Self { url, authority: certificate.pem() }
    }
}

async fn answer(mut stream: TlsStream<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        // A response (RFC 1035 §4.1.1).
        query[2] |= 0x80;
        stream.write_u16(u16::try_from(query.len()).unwrap()).await?;
        stream.write_all(&query).await?;
        stream.flush().await?;
    }
}
