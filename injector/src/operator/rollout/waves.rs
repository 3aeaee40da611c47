//! How many pods are written before some of them are asked, and which.

use std::collections::HashSet;

use super::Place;

/// The first wave is so small a part of all pods, one of so many, …
const FIRST_PART: usize = 100;
/// … and no more than this.
const FIRST_MOST: usize = 20;
/// Each wave makes the pods that have it so many times as many.
const GROWTH: usize = 5;

/// The next wave: evenly spread over those that are behind, which are sorted. Those whose write has failed come when no other is left.
pub(super) fn next(outdated: &[Place], updated: usize, failing: &HashSet<Place>) -> Vec<Place> {
    let size = size(outdated.len(), updated);
    let (last, first): (Vec<&Place>, Vec<&Place>) = outdated.iter().partition(|place| failing.contains(place));
    if first.is_empty() { spread(&last, size) } else { spread(&first, size) }.into_iter().cloned().collect()
}

/// So many of them, evenly spread.
pub(super) fn spread<T: Clone>(all: &[T], number: usize) -> Vec<T> {
    let number = number.min(all.len());
    (0..number).map(|index| all[index * all.len() / number].clone()).collect()
}

fn size(outdated: usize, updated: usize) -> usize {
    let first = ((outdated + updated) / FIRST_PART).clamp(1, FIRST_MOST);
    first.max(updated * (GROWTH - 1)).min(outdated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(pods: usize) -> Vec<usize> {
        let (mut updated, mut waves) = (0, Vec::new());
        while updated < pods {
            let wave = size(pods - updated, updated);
            updated += wave;
            waves.push(wave);
        }
        waves
    }

    #[test]
    fn waves_begin_with_a_hundredth_and_grow() {
        assert_eq!(waves(1), [1]);
        assert_eq!(waves(10), [1, 4, 5]);
        assert_eq!(waves(500), [5, 20, 100, 375]);
        assert_eq!(waves(2_000), [20, 80, 400, 1_500]);
        assert_eq!(waves(10_000), [20, 80, 400, 2_000, 7_500]);
    }

    #[test]
    fn one_pod_that_was_changed_among_many_is_a_wave_of_its_own() {
        assert_eq!(size(1, 999), 1);
    }

    #[test]
    fn a_wave_is_spread_over_all_that_are_behind_and_begins_with_those_whose_write_has_not_failed() {
        let place = |name: usize| Place { namespace: "shop".to_owned(), name: format!("web-{name:03}") };
        let outdated: Vec<Place> = (0..300).map(place).collect();
        assert_eq!(next(&outdated, 0, &HashSet::new()), [place(0), place(100), place(200)]);
        let failing = HashSet::from([place(0)]);
        assert_eq!(next(&outdated[..3], 0, &failing), [place(1)]);
        assert_eq!(next(&outdated[..1], 5, &failing), [place(0)]);
        assert_eq!(spread(&[1, 2, 3], 5), [1, 2, 3]);
    }
}
