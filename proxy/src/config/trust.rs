//! Whom to trust and how to prove who we are: CAs, client certificates and keys, out of the configuration and its files.

use std::fmt;
use std::fs;
use std::path::Path;

use dot_proxy_config::{CaCertificates, ClientCertificate, Collector, Config, ConfigError, ParseError, Syslog};

use crate::events::syslog::Destination;
use crate::upstream::connect::{ClientIdentity, Tls, TlsError, TlsSettings};
use crate::upstream::server::Definition;

const CA_FILE: &str = "caFile";
const CERTIFICATE_FILE: &str = "clientCertificate.certificateFile";
const KEY_FILE: &str = "clientCertificate.keyFile";

/// How servers prove who they are, and we to them. Pins and the client certificate are for the upstream's servers alone.
pub(super) struct Trust {
    pub(super) upstream: Tls,
    pub(super) routes: Tls,
    /// Of what these are made, for the programs that ask.
    pub(super) ca: Option<CaCertificates>,
    /// Certificate and key, in PEM.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The same, to be compared.
    pub(super) upstream_definition: Definition,
    pub(super) routes_definition: Definition,
}

/// What of TLS is written in one part of the configuration.
struct Written<'a> {
    /// The path of that part.
    part: &'static str,
    ca: Option<&'a CaCertificates>,
    ca_file: Option<&'a Path>,
    client_certificate: Option<&'a ClientCertificate>,
}

/// What stands in the files.
struct Read {
    ca: Option<CaCertificates>,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    identity: Option<ClientIdentity>,
}

impl Trust {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        let upstream = &config.upstream;
        let written = Written {
            part: "upstream",
            ca: upstream.ca.as_ref(),
            ca_file: upstream.ca_file.as_deref(),
            client_certificate: upstream.client_certificate.as_ref(),
        };
        let Read { ca, identity_pem, identity } = written.read()?;
        let pins = &upstream.pins;
        let by_ca_alone = pins.is_empty() && identity.is_none();
        let upstream = written.trusting(TlsSettings { ca: ca.as_ref(), pins, identity })?;
        let routes = if by_ca_alone {
            upstream.clone()
        } else {
            written.trusting(TlsSettings { ca: ca.as_ref(), ..TlsSettings::default() })?
        };
        let roots = ca.as_ref().map_or(&[][..], |ca| ca.as_pem().as_bytes());
        let pinned = pins.iter().map(ToString::to_string).collect::<String>();
        let (certificate, key) = identity_pem.as_ref().map_or((&[][..], &[][..]), |(pem, key)| (pem, key));
        let upstream_definition = Definition::of(&[roots, pinned.as_bytes(), certificate, key]);
        let routes_definition = Definition::of(&[roots]);
        Ok(Self { upstream, routes, ca, identity: identity_pem, upstream_definition, routes_definition })
    }
}

/// A collector of events, and how it proves who it is.
pub(super) fn collector(syslog: &Syslog) -> Result<Destination, ConfigError> {
    let server = match &syslog.server {
        Collector::Tcp(address) => return Ok(Destination::Tcp(*address)),
        Collector::Tls(server) => server.clone(),
    };
    let written = Written {
        part: "events.syslog",
        ca: syslog.ca.as_ref(),
        ca_file: syslog.ca_file.as_deref(),
        client_certificate: syslog.client_certificate.as_ref(),
    };
    let Read { ca, identity, .. } = written.read()?;
    let tls = written.trusting(TlsSettings { ca: ca.as_ref(), identity, ..TlsSettings::default() })?;
    Ok(Destination::Tls(tls.speaking(&[]), server))
}

impl Written<'_> {
    fn read(&self) -> Result<Read, ConfigError> {
        let ca = match self.ca_file {
            Some(file) => Some(self.read_ca(file)?),
            None => self.ca.cloned(),
        };
        let identity_pem = match self.client_certificate {
            Some(files) => {
                let certificate = self.read_file(CERTIFICATE_FILE, &files.certificate_file)?;
                Some((certificate, self.read_file(KEY_FILE, &files.key_file)?))
            }
            None => None,
        };
        let read_identity = |(certificate, key): &(Vec<u8>, Vec<u8>)| ClientIdentity::from_pem(certificate, key);
        let identity = identity_pem.as_ref().map(read_identity).transpose().map_err(|error| self.unusable(&error))?;
        Ok(Read { ca, identity_pem, identity })
    }

    fn trusting(&self, settings: TlsSettings<'_>) -> Result<Tls, ConfigError> {
        Tls::trusting(settings).map_err(|error| self.unusable(&error))
    }

    fn read_ca(&self, file: &Path) -> Result<CaCertificates, ConfigError> {
        let wrong = |error: &dyn fmt::Display| self.in_file(CA_FILE, file, error);
        let pem = String::from_utf8(self.read_file(CA_FILE, file)?).map_err(|error| wrong(&error))?;
        pem.parse().map_err(|error: ParseError| wrong(&error))
    }

    fn read_file(&self, field: &str, file: &Path) -> Result<Vec<u8>, ConfigError> {
        fs::read(file).map_err(|error| self.in_file(field, file, &error))
    }

    fn in_file(&self, field: &str, file: &Path, error: &dyn fmt::Display) -> ConfigError {
        ConfigError { path: format!("{}.{field}", self.part), message: format!("{}: {error}", file.display()) }
    }

    /// The error with the field, and the file if it stands in one.
    fn unusable(&self, error: &TlsError) -> ConfigError {
        match (error, self.client_certificate, self.ca_file) {
            (TlsError::Certificate(_), Some(files), _) => {
                self.in_file(CERTIFICATE_FILE, &files.certificate_file, error)
            }
            (TlsError::Key(_), Some(files), _) => self.in_file(KEY_FILE, &files.key_file, error),
            (_, _, Some(file)) => self.in_file(CA_FILE, file, error),
            (_, _, None) => ConfigError { path: format!("{}.ca", self.part), message: error.to_string() },
        }
    }
}
