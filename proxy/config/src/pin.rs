use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

use crate::ParseError;
use crate::rules::{Rules, quoted, rule, words};
use crate::text::written_as_text;

/// The SHA-256 of a public key (SubjectPublicKeyInfo, RFC 5280 §4.1), written `sha256/BASE64` (RFC 7858 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

const IS_NO_PIN: &str = "is no pin: write sha256/ and the base64 of the public key's SHA-256 (44 characters), as printed by: \
     openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";

impl Pin {
    /// The digest.
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digest = text.strip_prefix("sha256/").and_then(|base64| BASE64.decode(base64.as_bytes()).ok());
        digest
            .and_then(|digest| digest.try_into().ok())
            .map(Self)
            .ok_or_else(|| ParseError::new(format!("{text:?} {IS_NO_PIN}")))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64.encode(&self.0))
    }
}

fn rules() -> Rules {
    // The last digit carries four bits, of six.
    let condition = "self.matches('^sha256/[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')";
    Rules { longest: 128, rules: vec![rule(condition, &[&quoted("self"), &words(&format!(" {IS_NO_PIN}"))])] }
}

written_as_text!(
    Pin,
    "Pin",
    "sha256/ and the base64 of the SHA-256 of a public key (SubjectPublicKeyInfo, RFC 7858).",
    "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    rules()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_written_so_that_it_reads_back_the_same() {
        let text = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let pin: Pin = text.parse().unwrap();
        assert_eq!(pin.sha256()[..4], [0xe3, 0xb0, 0xc4, 0x42]); // the SHA-256 of nothing
        assert_eq!(pin.to_string(), text);
    }

    #[test]
    fn what_is_no_pin_is_refused_with_how_to_make_one() {
        for text in [
            "",
            "sha256/",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha1/47DEQpj8HBSa+/TImW+5JCeuQeQ=",
            "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256/47DEQpj8HBSa",
            "sha256/4\u{37e}DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert!(text.parse::<Pin>().unwrap_err().to_string().contains("openssl x509"), "{text}");
        }
    }
}
