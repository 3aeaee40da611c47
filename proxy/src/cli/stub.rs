use clap::ValueEnum;
use dot_proxy_config::Protocol;

/// How servers are asked, in the words of `--stub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Stub {
    /// The project's own DNS over TLS (also: dot)
    #[value(alias = "dot")]
    Ssock,
    /// DNS over HTTPS
    Doh,
    /// DNS over QUIC
    Doq,
    /// DNS over HTTPS by the program curl
    Curl,
    /// DNS over TLS by the program kdig
    Kdig,
}

impl Stub {
    /// The same in the configuration.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Ssock => Protocol::Dot,
            Self::Doh => Protocol::Doh,
            Self::Doq => Protocol::Doq,
            Self::Curl => Protocol::Curl,
            Self::Kdig => Protocol::Kdig,
        }
    }

    /// The word a person writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ssock => "ssock",
            Self::Doh => "doh",
            Self::Doq => "doq",
            Self::Curl => "curl",
            Self::Kdig => "kdig",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stub_is_read_by_its_own_word() {
        for stub in Stub::value_variants() {
            assert_eq!(Stub::from_str(stub.as_str(), false), Ok(*stub));
        }
    }
}
