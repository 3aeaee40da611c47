use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::ParseError;
use crate::rules::{Rules, rule, words};
use crate::text::written_as_text;

/// One or more CA certificates in PEM, checked for form; whether each is a usable trust anchor is for the proxy to say.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCertificates(String);

const HOLDS_A_KEY: &str = "holds a private key, which must never be here: give the CA's certificate alone";
const HOLDS_NONE: &str = "holds no certificate: give PEM text, which begins with -----BEGIN CERTIFICATE-----";

impl CaCertificates {
    /// The PEM text.
    pub fn as_pem(&self) -> &str {
        &self.0
    }
}

impl FromStr for CaCertificates {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.contains("PRIVATE KEY-----") {
            return Err(ParseError::new(HOLDS_A_KEY));
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(Self(text.to_owned())),
            Ok(_) => Err(ParseError::new(HOLDS_NONE)),
            Err(error) => Err(ParseError::new(format!("is not readable as PEM certificates: {error}"))),
        }
    }
}

impl fmt::Display for CaCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CaCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaCertificates({} bytes of PEM)", self.0.len())
    }
}

fn rules() -> Rules {
    Rules {
        longest: 60 * 1024, // what fits, with all the rest, into a pod's annotation
        rules: vec![
            rule("!self.contains('PRIVATE KEY-----')", &[&words(HOLDS_A_KEY)]),
            rule("self.contains('-----BEGIN CERTIFICATE-----')", &[&words(HOLDS_NONE)]),
        ],
    }
}

written_as_text!(
    CaCertificates,
    "CaCertificates",
    "CA certificates in PEM: what the upstream's certificate must chain to, instead of the public roots built in.",
    "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
    rules()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_certificates_are_taken() {
        let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(pem.parse::<CaCertificates>().unwrap().as_pem(), pem);
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_the_remedy() {
        let refused = |text: &str| text.parse::<CaCertificates>().unwrap_err().to_string();
        assert!(refused("").contains("BEGIN CERTIFICATE"));
        assert!(refused("/etc/ssl/ca.pem").contains("BEGIN CERTIFICATE"));
        assert!(refused("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n").contains("not readable"));
    }

    #[test]
    fn a_private_key_is_refused_and_not_repeated() {
        let pem = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let error = pem.parse::<CaCertificates>().unwrap_err().to_string();
        assert!(error.contains("private key") && !error.contains("c2VjcmV0"), "{error}");
    }
}
