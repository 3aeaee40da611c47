//! Why an upstream gave no answer: one word each, the same in the extended error, the log and the metric.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use rustls::CertificateError;

use crate::wire::ExtendedError;

/// Why an upstream gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The certificate is for another name.
    CertificateNameMismatch,
    /// The certificate does not chain to a CA that is trusted here.
    CertificateUnknownIssuer,
    /// The certificate's time is over.
    CertificateExpired,
    /// The certificate's time has not come.
    CertificateNotYetValid,
    /// None of the pinned public keys stands in the certificate's chain.
    CertificatePinMismatch,
    /// The certificate is wrong in another way.
    CertificateInvalid,
    /// The TLS handshake failed for another reason than the certificate.
    TlsHandshakeFailed,
    /// Nobody listens there.
    ConnectionRefused,
    /// No connection came about in time.
    ConnectionTimedOut,
    /// There is no way there.
    NetworkUnreachable,
    /// The connection ended while the query was waiting.
    ConnectionClosed,
    /// No answer came in time.
    QueryTimedOut,
    /// What came could not be read as an answer.
    ResponseMalformed,
    /// A defect of this program.
    InternalError,
    /// The server says that it is asked too much (HTTP 429 or 503, DOQ_EXCESSIVE_LOAD).
    ServerBusy,
    /// The server gave the query up: it reset the stream, and again when it was asked again.
    StreamReset,
    /// The server answered by an HTTP status that carries no answer; redirects are not followed.
    HttpStatusUnexpected,
    /// The program that is to ask (curl, kdig) could not be run, or failed for a reason of its own.
    ProgramFailed,
    /// The program that is to ask cannot ask just this.
    QueryNotCarried,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 19] = [
        Self::CertificateNameMismatch,
        Self::CertificateUnknownIssuer,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificatePinMismatch,
        Self::CertificateInvalid,
        Self::TlsHandshakeFailed,
        Self::ConnectionRefused,
        Self::ConnectionTimedOut,
        Self::NetworkUnreachable,
        Self::ConnectionClosed,
        Self::QueryTimedOut,
        Self::ResponseMalformed,
        Self::InternalError,
        Self::ServerBusy,
        Self::StreamReset,
        Self::HttpStatusUnexpected,
        Self::ProgramFailed,
        Self::QueryNotCarried,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CertificateNameMismatch => "certificate-name-mismatch",
            Self::CertificateUnknownIssuer => "certificate-unknown-issuer",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateNotYetValid => "certificate-not-yet-valid",
            Self::CertificatePinMismatch => "certificate-pin-mismatch",
            Self::CertificateInvalid => "certificate-invalid",
            Self::TlsHandshakeFailed => "tls-handshake-failed",
            Self::ConnectionRefused => "connection-refused",
            Self::ConnectionTimedOut => "connection-timed-out",
            Self::NetworkUnreachable => "network-unreachable",
            Self::ConnectionClosed => "connection-closed",
            Self::QueryTimedOut => "query-timed-out",
            Self::ResponseMalformed => "response-malformed",
            Self::InternalError => "internal-error",
            Self::ServerBusy => "server-busy",
            Self::StreamReset => "stream-reset",
            Self::HttpStatusUnexpected => "http-status-unexpected",
            Self::ProgramFailed => "program-failed",
            Self::QueryNotCarried => "query-not-carried",
        }
    }

    /// Whether the peer did not prove who it is.
    pub fn is_of_the_certificate(self) -> bool {
        matches!(
            self,
            Self::CertificateNameMismatch
                | Self::CertificateUnknownIssuer
                | Self::CertificateExpired
                | Self::CertificateNotYetValid
                | Self::CertificatePinMismatch
                | Self::CertificateInvalid
        )
    }

    /// The cause of a failure to connect or to shake hands.
    pub fn of_connecting(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::ConnectionTimedOut,
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied => Self::NetworkUnreachable,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::ConnectionClosed
            }
            _ if error.source().is_some() => Self::TlsHandshakeFailed,
            // EAFNOSUPPORT has no kind of its own: this machine has no addresses of that family.
            _ => Self::NetworkUnreachable,
        }
    }

    /// The cause of a failed handshake.
    pub fn of_tls(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(certificate) = error else { return Self::TlsHandshakeFailed };
        match certificate {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::CertificateNameMismatch
            }
            // A CA of the same name but another key gives a bad signature: it is no issuer that is known here either.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::CertificateUnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::CertificateExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::CertificateNotYetValid,
            // Ours alone: rustls itself never fails so.
            CertificateError::ApplicationVerificationFailure => Self::CertificatePinMismatch,
            _ => Self::CertificateInvalid,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Cause {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

/// A query that no server answered: the last server that was tried, and its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// The server, as its URL.
    pub server: Arc<str>,
}

impl Failure {
    /// The extended DNS error (RFC 8914) for the client.
    pub fn extended_error(&self) -> ExtendedError {
        let code = match self.cause {
            Cause::QueryTimedOut | Cause::ConnectionTimedOut => ExtendedError::NO_REACHABLE_AUTHORITY,
            Cause::InternalError => ExtendedError::OTHER,
            _ => ExtendedError::NETWORK_ERROR,
        };
        ExtendedError { code, text: self.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.cause, self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_network_are_told_apart() {
        for (kind, cause) in [
            (io::ErrorKind::ConnectionRefused, Cause::ConnectionRefused),
            (io::ErrorKind::TimedOut, Cause::ConnectionTimedOut),
            (io::ErrorKind::HostUnreachable, Cause::NetworkUnreachable),
            (io::ErrorKind::UnexpectedEof, Cause::ConnectionClosed),
        ] {
            assert_eq!(Cause::of_connecting(&kind.into()), cause);
        }
    }

    #[test]
    fn failures_of_the_certificate_are_told_apart() {
        for (error, cause) in [
            (CertificateError::NotValidForName, Cause::CertificateNameMismatch),
            (CertificateError::UnknownIssuer, Cause::CertificateUnknownIssuer),
            (CertificateError::BadSignature, Cause::CertificateUnknownIssuer),
            (CertificateError::Expired, Cause::CertificateExpired),
            (CertificateError::NotValidYet, Cause::CertificateNotYetValid),
            (CertificateError::ApplicationVerificationFailure, Cause::CertificatePinMismatch),
            (CertificateError::BadEncoding, Cause::CertificateInvalid),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
            assert_eq!(Cause::of_connecting(&error), cause);
        }
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
        assert_eq!(Cause::of_connecting(&error), Cause::TlsHandshakeFailed);
    }
}
