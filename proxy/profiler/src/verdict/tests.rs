use std::time::Duration;

use dot_proxy::cli::Stub;

use super::*;
use crate::measurement::Slice;
use crate::plan::ROUNDS;

/// A combination whose slices have one answer each, after so many microseconds in each round.
fn cell(combination: usize, microseconds: impl Fn(u64) -> u64) -> Cell {
    let slice = |round| {
        let latencies = vec![Duration::from_micros(microseconds(round))];
        Some(Slice { cold_start: Some(Duration::ZERO), latencies, ..Slice::default() })
    };
    Cell { combination, concurrency: 1, slices: (0..ROUNDS as u64).map(slice).collect() }
}

fn judgements(cells: &[&Cell]) -> Vec<Judgement> {
    compare(cells).iter().map(|comparison| comparison.judgement).collect()
}

/// Some disorder, the same in every run: from 0 to 1023 (splitmix64).
fn jitter(round: u64, seed: u64) -> u64 {
    let mut mixed = (seed << 32 | round).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) & 0x3ff
}

#[test]
fn what_was_added_is_found_through_moments_that_are_noisy_for_all() {
    // In every third round the whole network takes 300 ms longer, which is far more than what tells the two apart.
    let noisy = |round: u64| if round.is_multiple_of(3) { 300_000 } else { 0 };
    let direct = cell(0, |round| 10_000 + noisy(round) + jitter(round, 3));
    let delayed = cell(1, |round| 50_000 + noisy(round) + jitter(round, 5));
    let comparison = compare(&[&delayed, &direct]);
    assert_eq!((comparison[0].judgement, comparison[1].judgement), (Judgement::Slower, Judgement::Fastest));
    assert!((comparison[0].difference_ms.unwrap() - 40.0).abs() < 1.0, "{comparison:?}");
    assert!(comparison[0].difference_low_ms.unwrap() > 39.0 && comparison[0].difference_high_ms.unwrap() < 41.0);
}

#[test]
fn what_is_the_same_but_for_jitter_is_within_the_noise_nineteen_times_in_twenty() {
    let told_apart = |seed: u64| {
        let one = cell(0, |round| 10_000 + jitter(round, seed));
        let other = cell(1, |round| 10_000 + jitter(round, seed + 1_000_000));
        !judgements(&[&one, &other]).contains(&Judgement::WithinNoise)
    };
    let wrong = (0..1_000).filter(|seed| told_apart(*seed)).count();
    assert!((10..=50).contains(&wrong), "{wrong} of 1000"); // none would mean that it tells nothing apart
}

#[test]
fn what_is_slower_by_too_little_to_matter_is_said_to_be() {
    let fastest = cell(0, |_| 20_000);
    let slight = cell(1, |round| 20_300 + jitter(round, 7) / 100); // 2 % of 20 ms are 0.4 ms
    let slower = cell(2, |round| 20_500 + jitter(round, 7) / 100);
    let found = judgements(&[&fastest, &slight, &slower]);
    assert_eq!(found, [Judgement::Fastest, Judgement::SlightlySlower, Judgement::Slower]);
}

#[test]
fn a_few_rounds_are_not_enough_to_tell() {
    let (mut fastest, mut slower) = (cell(0, |_| 10_000), cell(1, |_| 90_000));
    fastest.slices.truncate(5);
    slower.slices.truncate(5);
    assert_eq!(judgements(&[&fastest, &slower]), [Judgement::Fastest, Judgement::TooFewRounds]);
}

#[test]
fn who_leaves_queries_unanswered_is_not_the_fastest_however_fast_the_others_are() {
    let (mut hasty, steady, mut silent) = (cell(0, |_| 1_000), cell(1, |_| 20_000), cell(2, |_| 0));
    hasty.slices[0].as_mut().unwrap().errors.insert("SERVFAIL".to_owned(), 1);
    silent.slices = vec![None; ROUNDS];
    let found = judgements(&[&hasty, &steady, &silent]);
    assert_eq!(found, [Judgement::Unreliable, Judgement::Fastest, Judgement::Unreliable]);
    assert_eq!(judgements(&[&silent]), [Judgement::Unreliable]);
}

#[test]
fn the_sentences_name_the_fastest_first_and_the_silent_last() {
    let combination = |upstream: &str| Combination::new(Stub::Ssock, &upstream.parse().unwrap(), None).unwrap();
    let combinations = ["google", "quad9", "cloudflare"].map(combination);
    let mut silent = cell(2, |_| 0);
    silent.slices = vec![None; ROUNDS];
    let cells = vec![cell(0, |_| 50_000), cell(1, |_| 10_000), silent];
    let measured = Measured { cells, ..Measured::default() };
    assert_eq!(
        sentences(&combinations, &measured),
        "Verdict, one query at a time:\n  \
           ssock quad9 is fastest\n  \
           ssock google is slower by 40.00 ms (between +40.00 and +40.00 ms)\n  \
           ssock cloudflare was not answered\n"
    );
}
