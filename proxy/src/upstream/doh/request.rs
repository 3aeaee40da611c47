//! Requests of DNS over HTTPS (RFC 8484 §4.1), with nothing in them but what the RFC asks for.

use data_encoding::BASE64URL_NOPAD;
use dot_proxy_config::HttpsServer;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Uri};

use super::response::MEDIA_TYPE;

/// Makes the requests to one server.
pub(in crate::upstream) struct Requests {
    authority: Authority,
    path: String,
    /// Where a question in the body is sent.
    uri: Uri,
}

const DEFAULT_PORT: u16 = 443;

impl Requests {
    /// Requests to this server, which is called by its name: the address is for connecting alone.
    pub(in crate::upstream) fn to(server: &HttpsServer) -> Self {
        let (name, port) = (server.server.name.as_str(), server.server.address.port());
        let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        let authority = if port == DEFAULT_PORT { host } else { format!("{host}:{port}") };
        let authority = authority.parse().expect("a server's name and a port make an authority");
        let path = server.path.as_str().to_owned();
        Self { uri: uri(&authority, &path), authority, path }
    }

    /// The question in the body.
    pub(in crate::upstream) fn post(&self, message: &[u8]) -> Request<()> {
        let mut request = request(Method::POST, self.uri.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        request.headers_mut().insert(CONTENT_LENGTH, message.len().into());
        request
    }

    /// The question in the URL, without a body.
    pub(in crate::upstream) fn get(&self, message: &[u8]) -> Request<()> {
        let path = format!("{}?dns={}", self.path, BASE64URL_NOPAD.encode(message));
        request(Method::GET, uri(&self.authority, &path))
    }
}

fn uri(authority: &Authority, path: &str) -> Uri {
    let path: PathAndQuery = path.parse().expect("it holds only what may stand in a path");
    let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority.clone()).path_and_query(path).build();
    uri.expect("all three parts are there")
}

fn request(method: Method, uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(MEDIA_TYPE));
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use dot_proxy_config::Server;

    fn requests(url: &str) -> Requests {
        match url.parse().unwrap() {
            Server::Https(server) => Requests::to(&server),
            other => unreachable!("{other}"),
        }
    }

    fn headers(request: &Request<()>) -> Vec<(&str, &str)> {
        let mut headers: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        headers.sort_unstable();
        headers
    }

    #[test]
    fn a_post_has_the_question_in_its_body_and_says_nothing_else() {
        let request = requests("https://192.0.2.1/dns-query#dns.example").post(&[1; 128]);
        assert_eq!(
            (request.method(), request.uri().to_string().as_str()),
            (&Method::POST, "https://dns.example/dns-query")
        );
        assert_eq!(
            headers(&request),
            [
                ("accept", "application/dns-message"),
                ("content-length", "128"),
                ("content-type", "application/dns-message")
            ]
        );
    }

    #[test]
    fn a_get_has_the_question_in_its_url_as_the_rfc_shows_it() {
        // RFC 8484 §4.1.1: www.example.com.
        let message = BASE64URL_NOPAD.decode(b"AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB").unwrap();
        let request = requests("https://192.0.2.1#dnsserver.example.net").get(&message);
        assert_eq!(
            request.uri().to_string(),
            "https://dnsserver.example.net/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB"
        );
        assert_eq!(headers(&request), [("accept", "application/dns-message")]);
    }

    #[test]
    fn whatever_server_can_be_configured_can_be_asked() {
        for (url, uri) in [
            ("https://192.0.2.1:8443/#a_b.example", "https://a_b.example:8443/"),
            ("https://[2001:db8::1]#2001:db8::1", "https://[2001:db8::1]/dns-query"),
            ("https://192.0.2.1#192.0.2.1", "https://192.0.2.1/dns-query"),
            ("https://192.0.2.1/-._~!$&'()*+,;=:@%20/x#a.example", "https://a.example/-._~!$&'()*+,;=:@%20/x"),
        ] {
            assert_eq!(requests(url).post(&[]).uri().to_string(), uri);
            assert!(requests(url).get(&[0; 384]).uri().query().is_some());
        }
    }
}
