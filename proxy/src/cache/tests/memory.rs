//! What is kept, what is let go for it, and how much memory that takes.

use super::*;

#[test]
fn the_budget_bounds_the_memory_whatever_is_put_and_zero_keeps_nothing() {
    for (budget, names) in [(0, 100), (1, 100), (10_000, 1000), (100_000, 3000), (2_100_000, 20_000)] {
        let (cache, now) = (Driven::new(budget), Instant::now());
        for index in 0..names {
            let name = format!("n{index}.example");
            let answer = if index % 3 == 0 { nxdomain(&name, 60) } else { address(&name, 60) };
            cache.put(&name, &answer, now);
        }
        let allocated = cache.allocated() as u64;
        let none_kept = cache.entries() == 0 && allocated < 10_000;
        assert!(allocated <= budget || none_kept, "{allocated} of {budget}");
        assert!(budget < 100_000 || cache.entries() as u64 > budget / 250, "{} of {budget}", cache.entries());
    }
}

#[test]
fn a_hundred_thousand_short_answers_fit_fourteen_megabytes() {
    let (cache, now) = (Driven::new(32 << 20), Instant::now());
    for index in 0..100_000 {
        let name = format!("n{index}.bench.test");
        cache.put(&name, &address(&name, 300), now);
    }
    assert_eq!(cache.entries(), 100_000);
    assert!(cache.allocated() < 14_000_000, "{}", cache.allocated());
}

#[test]
fn a_burst_of_unique_names_does_not_push_out_what_is_in_use() {
    let (cache, now) = (Driven::new(200_000), Instant::now());
    let in_use: Vec<String> = (0..300).map(|index| format!("used{index}.example")).collect();
    for name in &in_use {
        cache.put(name, &address(name, 3600), now);
        assert!(is_fresh(&cache.get(name, now)));
    }
    for index in 0..10_000 {
        let name = format!("burst{index}.example");
        assert!(matches!(cache.get(&name, now), Found::Missing));
        cache.put(&name, &address(&name, 3600), now);
    }
    let left = in_use.iter().filter(|name| is_fresh(&cache.get(name, now))).count();
    assert_eq!(left, in_use.len());
}

#[test]
fn what_comes_back_soon_after_its_eviction_stays_from_then_on() {
    let (cache, now) = (Driven::new(200_000), Instant::now());
    let mut burst = (0..).map(|index| format!("burst{index}.example"));
    let mut flood = |count| burst.by_ref().take(count).for_each(|name| cache.put(&name, &address(&name, 3600), now));
    cache.put("rare.example", &address("rare.example", 3600), now);
    flood(1500);
    assert!(matches!(cache.get("rare.example", now), Found::Missing));
    cache.put("rare.example", &address("rare.example", 3600), now);
    flood(5000);
    assert!(is_fresh(&cache.get("rare.example", now)));
}

#[test]
fn what_is_let_go_by_its_name_is_not_found_in_any_way_and_is_freed_by_what_comes_after() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    for name in ["a.corp.example", "b.example"] {
        cache.put(name, &address(name, 300), now);
    }
    cache.put("gone.corp.example", &nxdomain("gone.corp.example", 300), now);
    cache.put("failing.corp.example", &servfail("failing.corp.example"), now);
    let ours = from_text("corp.example");
    cache.0.retain(|name| name.labels_above(&ours).is_none(), now);
    for name in ["a.corp.example", "gone.corp.example", "failing.corp.example"] {
        assert!(matches!(cache.get(name, now), Found::Missing), "{name}");
    }
    assert!(cache.below("x.gone.corp.example", A, ASKED, now).is_none());
    fresh(cache.get("b.example", now));
    for index in 0..8 {
        cache.put(&format!("n{index}.example"), &address(&format!("n{index}.example"), 300), now);
    }
    assert_eq!(cache.entries(), 9);
}

#[test]
fn a_smaller_budget_holds_at_once_and_other_rules_do_too() {
    let (cache, now) = (Driven::new(1 << 20), Instant::now());
    for index in 0..1_000 {
        let name = format!("n{index}.example");
        cache.put(&name, &address(&name, 300), now);
    }
    assert!(cache.allocated() > 64 << 10);
    let settings = Settings { budget: 64 << 10, stale_for: Duration::ZERO, prefetch: false };
    cache.0.configure(settings, now);
    assert!(cache.allocated() <= 64 << 10, "{}", cache.allocated());
    cache.put("a.example", &address("a.example", 300), now);
    assert!(is_fresh(&cache.get("a.example", now)));
    assert!(matches!(cache.get("a.example", now + seconds(301)), Found::Missing));
}

#[test]
fn what_is_of_no_use_any_more_is_freed_by_what_comes_after() {
    let cache = Driven::with(Settings { budget: 8 << 20, stale_for: Duration::ZERO, prefetch: true });
    let start = Instant::now();
    for minute in 0..20 {
        for index in 0..1000 {
            let name = format!("n{index}.minute{minute}.example");
            cache.put(&name, &address(&name, 30), start + seconds(60 * minute));
        }
    }
    assert!(cache.entries() < 3000, "{}", cache.entries());
}

#[test]
fn one_large_answer_does_not_push_out_all_others() {
    let (cache, now) = (Driven::new(100_000), Instant::now());
    cache.put("small.example", &address("small.example", 60), now);
    let text = [&[250][..], &[b'x'; 250]].concat().repeat(200);
    cache.put("large.example", &response("large.example", 16, 0, &[(16, 60, &text)], &[]), now);
    assert!(is_fresh(&cache.get("small.example", now)));
    assert_eq!(cache.entries(), 1);
}
