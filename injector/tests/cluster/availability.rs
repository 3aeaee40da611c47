//! Not one admission fails while replicas are replaced, hand over, and rotate their certificates.

use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::control_plane::within;
use crate::eventually;
use crate::installation::Installation;
use crate::load::{Load, were_on_their_way};
use crate::replica::Replica;

/// The replica that leads, and the other one.
pub(crate) async fn by_leadership(one: Replica, other: Replica) -> (Replica, Replica) {
    eventually("one leads", Duration::from_secs(60), async || one.leads().await || other.leads().await).await;
    if one.leads().await { (one, other) } else { (other, one) }
}

#[test]
fn not_one_admission_fails_in_a_rolling_replacement_or_a_rotation() {
    within(
        "available",
        concat!(module_path!(), "::not_one_admission_fails_in_a_rolling_replacement_or_a_rotation"),
        || async {
            let installation = Installation::new(
            "certificates.leafSeconds=30,certificates.authoritySeconds=90,certificates.graceSeconds=5,selfCheck.enabled=false",
        )
        .await;
            let balancer = Balancer::start(installation.service).await;
            let (one, two) = (Replica::ready(&installation, 1).await, Replica::ready(&installation, 2).await);
            balancer.add(&one);
            balancer.add(&two);
            let (leader, follower) = by_leadership(one, two).await;
            eventually("both are known to be ready", Duration::from_secs(10), async || {
                tokio::net::TcpStream::connect(installation.service).await.is_ok()
            })
            .await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let load = Load::start(&installation);
            load.go_on_for(30).await;
            assert_eq!(load.take_lost("at rest"), []);

            // As a Deployment does it: a new one first, then an old one goes; the leader, then the other.
            let (mut number, mut replicas) = (2, Vec::new());
            for old in [leader, follower] {
                number += 1;
                let new = Replica::ready(&installation, number).await;
                balancer.add(&new);
                replicas.push(new);
                load.go_on_for(20).await;
                old.signal("TERM");
                load.go_on_for(20).await;
                old.stop().await;
            }
            load.go_on_for(20).await;
            assert_eq!(load.take_lost("a rolling replacement of both replicas"), []);

            let [three, four] = <[Replica; 2]>::try_from(replicas).unwrap_or_else(|_| unreachable!("two were started"));
            let (leader, follower) = by_leadership(three, four).await;
            let rotated = async |certificate: &str| {
                leader
                    .metric(&format!("dot_injector_certificate_rotations_total{{certificate=\"{certificate}\"}}"))
                    .await
            };
            let (leaf, ca) = (rotated("leaf").await, rotated("ca").await);
            eventually("leaf and authority were rotated", Duration::from_secs(150), async || {
                rotated("leaf").await >= leaf + 2.0 && rotated("ca").await >= ca + 1.0
            })
            .await;
            eventually("a leaf of the new authority is served by both", Duration::from_secs(60), async || {
                let expiry = "dot_injector_certificate_expiry_timestamp_seconds{certificate=\"leaf\"}";
                let (one, other) = (leader.metric(expiry).await, follower.metric(expiry).await);
                (one - other).abs() < 0.5 && rotated("leaf").await >= leaf + 3.0
            })
            .await;
            load.go_on_for(20).await;
            assert_eq!(load.take_lost("rotations of leaf and authority"), []);
            println!(
                "{} leaves and {} authorities were made meanwhile",
                rotated("leaf").await - leaf,
                rotated("ca").await - ca
            );
        },
    );
}

#[test]
fn a_leaders_death_costs_at_most_the_admissions_that_were_on_their_way_to_it() {
    within(
        "death",
        concat!(module_path!(), "::a_leaders_death_costs_at_most_the_admissions_that_were_on_their_way_to_it"),
        || async {
            let installation = Installation::new("selfCheck.enabled=false").await;
            let balancer = Balancer::start(installation.service).await;
            let (one, two) = (Replica::ready(&installation, 1).await, Replica::ready(&installation, 2).await);
            balancer.add(&one);
            balancer.add(&two);
            let (mut leader, mut follower) = by_leadership(one, two).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let load = Load::start(&installation);
            load.go_on_for(30).await;
            assert_eq!(load.take_lost("at rest"), []);
            for number in [3, 4] {
                let killed = Instant::now();
                leader.kill().await;
                load.go_on_for(40).await;
                let lost = load.take_lost("a leader's death");
                were_on_their_way(&lost, killed);
                let new = Replica::ready(&installation, number).await;
                balancer.add(&new);
                eventually("another one leads", Duration::from_secs(30), async || {
                    new.leads().await || follower.leads().await
                })
                .await;
                (leader, follower) = by_leadership(follower, new).await;
            }
            load.go_on_for(20).await;
            assert_eq!(load.take_lost("after it"), []);
        },
    );
}
