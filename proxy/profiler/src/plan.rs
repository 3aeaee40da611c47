//! What is to be measured: every stub with every upstream that it can ask, and how often.

use std::path::Path;
use std::time::Duration;

use dot_proxy::cli::Stub;
use dot_proxy_config::{CaCertificates, ParseError, Server};

use crate::combination::{Combination, Skipped, written};
use crate::questions::Questions;

/// A measurement has so many rounds. Twelve are enough to be 95 % sure of a hundred comparisons at once.
pub const ROUNDS: usize = 12;

/// What is to be measured.
#[derive(Debug)]
pub struct Plan {
    /// What is compared; never empty.
    pub combinations: Vec<Combination>,
    /// What was asked for and cannot be.
    pub skipped: Vec<Skipped>,
    /// What is asked.
    pub questions: Questions,
    /// Queries in a slice: of one combination, in one round, at one concurrency.
    pub slice: usize,
    /// How many queries are under way at once.
    pub concurrency: Vec<usize>,
    /// Every query on a connection of its own.
    pub cold: bool,
    /// How long a query may take.
    pub timeout: Duration,
}

/// The combinations that can be, and those that cannot with the reason. An error is one of the CA's file.
pub fn combinations(
    stubs: &[Stub],
    upstreams: &[Server],
    ca_file: Option<&Path>,
) -> Result<(Vec<Combination>, Vec<Skipped>), String> {
    let ca = ca_file.map(read_ca).transpose()?;
    let (mut can_be, mut skipped) = (Vec::new(), Vec::new());
    for upstream in upstreams {
        let suits = |stub: &&Stub| stub.protocol().suits(upstream);
        // A URL says by its scheme who can ask it: those who cannot are worth a word only where nobody can.
        let is_known = !matches!(upstream, Server::Preset(_)) && stubs.iter().any(|stub| suits(&stub));
        for stub in stubs.iter().filter(|stub| !is_known || suits(stub)) {
            let usable = match Combination::new(*stub, upstream, ca.as_ref()) {
                Some(combination) => combination.fresh().map(|_| combination).map_err(|error| error.message),
                None => Err(not_offered(*stub, upstream)),
            };
            match usable {
                Ok(combination) => can_be.push(combination),
                Err(reason) => {
                    skipped.push(Skipped { stub: stub.as_str(), upstream: written(upstream), reason });
                }
            }
        }
    }
    Ok((can_be, skipped))
}

fn not_offered(stub: Stub, upstream: &Server) -> String {
    match upstream {
        Server::Preset(preset) => format!("{} does not offer it", preset.as_str()),
        _ => format!("it asks {} alone", stub.protocol().url()),
    }
}

/// Reads the CAs and makes sure that they can be used: by then what else fails is a program's.
fn read_ca(file: &Path) -> Result<CaCertificates, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("--tls-ca {}: {error}", file.display());
    let pem = std::fs::read_to_string(file).map_err(|error| in_file(&error))?;
    let ca: CaCertificates = pem.parse().map_err(|error: ParseError| in_file(&error))?;
    let by_ssock = Combination::new(Stub::Ssock, &Server::Preset(dot_proxy_config::Preset::Quad9), Some(&ca));
    let tried = by_ssock.map(|combination| combination.fresh()).transpose();
    tried.map_err(|error| in_file(&error.message))?;
    Ok(ca)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(stubs: &[Stub], upstreams: &[&str]) -> (Vec<String>, Vec<Skipped>) {
        let upstreams: Vec<_> = upstreams.iter().map(|text| text.parse().unwrap()).collect();
        let (combinations, skipped) = combinations(stubs, &upstreams, None).unwrap();
        (combinations.iter().map(ToString::to_string).collect(), skipped)
    }

    #[test]
    fn every_stub_is_combined_with_every_upstream_and_what_cannot_be_is_told() {
        let (combinations, skipped) = planned(&[Stub::Ssock, Stub::Doq], &["cloudflare", "quad9"]);
        assert_eq!(combinations, ["ssock cloudflare", "ssock quad9", "doq quad9"]);
        let reason = "cloudflare does not offer it".to_owned();
        assert_eq!(skipped, [Skipped { stub: "doq", upstream: "cloudflare".to_owned(), reason }]);
    }

    #[test]
    fn a_url_is_asked_by_those_of_its_scheme_and_the_others_are_not_worth_a_word() {
        let (combinations, skipped) = planned(&[Stub::Ssock, Stub::Doh, Stub::Doq], &["tls://192.0.2.1#a.example"]);
        assert_eq!((combinations.len(), skipped.len()), (1, 0));
        let (combinations, skipped) = planned(&[Stub::Doh], &["tls://192.0.2.1#a.example"]);
        assert_eq!(combinations.len(), 0);
        assert_eq!(skipped[0].reason, "it asks https://ADDRESS/PATH#NAME alone");
    }

    #[test]
    fn a_ca_that_cannot_be_used_is_told_by_its_flag_and_file() {
        let error = combinations(&[Stub::Ssock], &[], Some(Path::new("/nonexistent"))).unwrap_err();
        assert!(error.starts_with("--tls-ca /nonexistent: No such file"), "{error}");
    }
}
