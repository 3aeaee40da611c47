use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// The longest path, in octets; it travels with every query.
const LONGEST: usize = 255;

/// The path of a URL at which DNS over HTTPS is asked: `/dns-query` unless written otherwise.
///
/// It holds only what may stand in a path (RFC 3986 §3.3), so that it can become no other part of a request or a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UrlPath(String);

impl UrlPath {
    /// The path, with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for UrlPath {
    fn default() -> Self {
        Self("/dns-query".to_owned())
    }
}

impl FromStr for UrlPath {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(at) = text.find(['?', '{']) {
            return Err(ParseError::new(format!(
                "{text:?} is no path: leave out what follows {:?}; the proxy adds the question itself",
                &text[..at]
            )));
        }
        let fits = text.starts_with('/') && text.len() <= LONGEST && is_path(text.as_bytes());
        if fits { Ok(Self(text.to_owned())) } else { Err(unusable(text)) }
    }
}

fn unusable(text: &str) -> ParseError {
    ParseError::new(format!(
        "{text:?} is no path of a URL: write one such as /dns-query, of at most {LONGEST} octets, with other characters as %20"
    ))
}

fn is_path(mut rest: &[u8]) -> bool {
    while let [first, behind @ ..] = rest {
        rest = match (first, behind) {
            (b'%', [high, low, behind @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => behind,
            (octet, behind) if octet.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(octet) => behind,
            _ => return false,
        };
    }
    true
}

impl fmt::Display for UrlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stand_in_a_path_is_read() {
        for text in ["/", "/dns-query", "/a/b%20c", "/~x;y=1,2"] {
            assert_eq!(text.parse::<UrlPath>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_could_become_something_else_is_refused() {
        for text in
            ["", "dns-query", "/a b", "/a\r\nHost: x", "/a\"", "/%2", "/ü", "/a\\b", &format!("/{}", "a".repeat(255))]
        {
            assert!(text.parse::<UrlPath>().is_err(), "{text}");
        }
        let error = "/dns-query{?dns}".parse::<UrlPath>().unwrap_err().to_string();
        assert!(error.contains("follows \"/dns-query\""), "{error}");
    }
}
