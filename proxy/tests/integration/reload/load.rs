//! Many changes, under load.

use std::fs;
use std::time::Duration;

use crate::authority::Authority;
use crate::confinement::started::{Directory, Started, command};
use crate::load::Load;
use crate::proxy::configuration;
use crate::server::Server;
use crate::volume::{Volume, config, hash};
use crate::wait::until;

/// Resident memory in KiB, and how many descriptors are open.
fn taken_by(process: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = line.split_whitespace().next().unwrap().parse().unwrap();
    (resident, fs::read_dir(format!("/proc/{process}/fd")).unwrap().count())
}

/// So many changes between servers, each taken before the next, while 200 queries a second come for names of their own.
#[expect(clippy::print_stdout, reason = "the figures are of interest when it is run by hand")]
async fn changes(count: usize) {
    let authority = Authority::new();
    let servers = [Server::tls(&authority).await, Server::tls(&authority).await, Server::tls(&authority).await];
    let urls = servers.each_ref().map(Server::url);
    let [a, b, c] = urls.each_ref().map(String::as_str);
    // Long enough for a machine that has much else to do; what a change would lose is lost whatever the deadline.
    let patient = "query: {deadlineMilliseconds: 10000}";
    let texts = [vec![a], vec![b], vec![a, b], vec![c, a], vec![c, b]].map(|urls| config(&authority, &urls, patient));
    let (volume, program) = (Volume::holding(&texts[0]), Directory::new());
    let mut proxy = Started::by(command(&program, &volume.file()));
    proxy.leave_the_log();
    // The first tenth lets caches, pools and tables come to their size.
    let (mut early, mut done) = (None, 0);
    while done < count {
        let load = Load::asking(proxy.address, 1_000, Duration::from_millis(5), move |index| {
            format!("n{done}-{index}.example.com.")
        });
        let batch = tokio::time::Instant::now();
        while batch.elapsed() < Duration::from_secs(5) && done < count {
            done += 1;
            let text = &texts[done % texts.len()];
            volume.swap(text);
            let wanted = (hash(text), None);
            until("the configuration is taken", async || configuration(proxy.admin).await == wanted).await;
        }
        load.finished().await.assert_all_right();
        let taken = taken_by(proxy.id());
        println!("after {done} changes: {} KiB, {} descriptors", taken.0, taken.1);
        if done >= count / 10 {
            early.get_or_insert(taken);
        }
    }
    let (early, late) = (early.unwrap(), taken_by(proxy.id()));
    assert!(late.1 <= early.1 + 4, "descriptors: {} after the first changes, {} after all", early.1, late.1);
    assert!(late.0 <= early.0 + 4_096, "KiB: {} after the first changes, {} after all", early.0, late.0);
}

#[tokio::test]
async fn no_lookup_fails_while_the_configuration_changes_again_and_again() {
    changes(40).await;
}

#[tokio::test]
#[ignore = "takes a minute: 1,000 changes"]
async fn after_a_thousand_changes_under_load_no_lookup_has_failed_and_nothing_has_grown() {
    changes(1_000).await;
}
