//! Certificate authorities of the tests' own, and what they sign: right, expired, for whatever name.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority.
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key();
        let certificate = parameters.self_signed(&key).expect("the parameters are complete").pem();
        Self { issuer: Issuer::new(parameters, key), certificate }
    }

    /// The authority's own certificate, in PEM: what a client must trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for the server called `name`.
    pub fn identity(&self, name: &str) -> Identity {
        self.sign(server(name))
    }

    /// A certificate for the server called `name` that ended in 2021.
    pub fn expired_identity(&self, name: &str) -> Identity {
        let mut parameters = server(name);
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2021, 1, 1);
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Identity {
        let key = new_key();
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the parameters are complete").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

fn server(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new([name.to_owned()]).expect("the name of a test's server is a DNS name");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system gives randomness")
}
