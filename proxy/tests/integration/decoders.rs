//! A hundred thousand damaged messages, each read by the proxy, by hickory-proto and by dnspython: what one of them takes and
//! another does not is told apart by why, and every why stands in an RFC.

mod difference;
mod dnspython;
mod hickory;
mod mutation;
mod ours;
mod reading;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use self::difference::{Difference, explain, without_data};
use self::dnspython::Dnspython;
use self::mutation::{Kind, Sample, samples};
use self::reading::{Decoder, Outcome, Reading};

/// Damaged messages, half of them queries and half responses.
const MESSAGES: usize = 110_000;

/// Another seed damages otherwise; it is printed with every difference.
const SEED: u64 = 0x00F0_225E;

#[test]
fn every_damaged_message_is_taken_or_refused_as_two_other_decoders_do_or_as_an_rfc_says() {
    let samples: Vec<Sample> = samples(SEED).take(MESSAGES).collect();
    let ours: Vec<Outcome> = samples.iter().map(ours::outcome).collect();
    // Half of them damaged beyond reading: else the comparison is worth little.
    for kind in [Kind::Query, Kind::Response] {
        let of_kind = samples.iter().zip(&ours).filter(|(sample, _)| sample.kind == kind);
        let taken = of_kind.clone().filter(|(_, outcome)| outcome.is_taken()).count();
        let all = of_kind.count();
        assert!(taken * 5 > all && taken * 5 < all * 4, "{taken} of {all} {kind:?} are taken");
    }
    let mut table = BTreeMap::new();
    let unexplained = [
        differences(&samples, &ours, Decoder::Hickory, hickory::read_all, &mut table),
        differences(&samples, &ours, Decoder::Dnspython, |messages| Dnspython::start().read_all(messages), &mut table),
    ];
    let mut text = String::new();
    for ((decoder, difference), count) in &table {
        let Difference { what, rfc } = difference;
        writeln!(text, "| {decoder} | {what} | {rfc} | {count} |").unwrap();
    }
    println!("{MESSAGES} messages, seed {SEED:#x}\n{text}");
    let unexplained = unexplained.concat();
    let some = &unexplained[..unexplained.len().min(8)];
    assert!(unexplained.is_empty(), "{} differences (seed {SEED:#x}), among them {some:#?}", unexplained.len());
}

/// How often each difference occurs; returned are those that nothing explains.
fn differences(
    samples: &[Sample],
    ours: &[Outcome],
    decoder: Decoder,
    read_all: impl Fn(&[&[u8]]) -> Vec<Reading>,
    table: &mut BTreeMap<(Decoder, &'static Difference), usize>,
) -> Vec<String> {
    let messages: Vec<&[u8]> = samples.iter().map(|sample| &sample.message[..]).collect();
    let readings = read_all(&messages);
    let pairs = samples.iter().zip(ours).zip(&readings);
    let differing: Vec<_> = pairs.filter(|((sample, ours), reading)| **ours != reading.outcome(sample)).collect();
    // Whether it is the data of records, which a forwarder does not look into, that the decoder objects to.
    let without: Vec<Vec<Vec<u8>>> = differing.iter().map(|((sample, _), _)| without_data(&sample.message)).collect();
    let again = read_all(&without.iter().flatten().map(|message| &message[..]).collect::<Vec<_>>());
    let (mut again, mut unexplained) = (again.as_slice(), Vec::new());
    for (((sample, ours), reading), without) in differing.into_iter().zip(&without) {
        let these = again.split_off(..without.len()).unwrap();
        match explain(decoder, sample, ours, reading, these) {
            Some(difference) => *table.entry((decoder, difference)).or_default() += 1,
            None => unexplained.push(format!(
                "{decoder} on a {:?}: {ours:?} here, there {:?} ({reading:?}): {}",
                sample.kind,
                reading.outcome(sample),
                HEXLOWER.encode(&sample.message)
            )),
        }
    }
    unexplained
}
