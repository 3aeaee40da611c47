//! The same by curl and by kdig, as Debian installs them.

use super::{FEWER_QUESTIONS, Kinds, same_answers, zone};
use crate::authority::Authority;
use crate::proxy::{Proxy, Written};
use crate::unbound::Unbound;

/// Two processors at work for others may take long to start a thousand processes.
const PATIENT: &str = "query: {deadlineMilliseconds: 9000}";

async fn same_by(program: &str, url: impl Fn(&Unbound) -> String) {
    let authority = Authority::new();
    let resolver = Unbound::serving(zone::ORIGIN, &zone::master_file(), &authority).await;
    let protocol = format!("protocol: {program}");
    let written = Written { upstream: &protocol, more: PATIENT, ..Written::default() };
    let proxy = Proxy::written(&[&url(&resolver)], &authority, &written);
    let kinds = same_answers(resolver.plain, &proxy, FEWER_QUESTIONS).await;
    let Kinds { records, no_records, no_name, truncated } = kinds;
    assert!(records > 500 && no_records > 200 && no_name > 90 && truncated > 20, "{kinds:?}");
}

#[tokio::test]
async fn the_answers_by_curl_are_those_that_the_resolver_gives_directly() {
    same_by("curl", Unbound::https_url).await;
}

#[tokio::test]
async fn the_answers_by_kdig_are_those_that_the_resolver_gives_directly() {
    same_by("kdig", Unbound::url).await;
}
