//! Who misbehaved, how much of late, and who is restrained for it.
//!
//! Bounded, and without a clock: `now` is an argument, and scores are brought down when they are looked at, so that
//! nothing has to wake up for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::time::{Duration, Instant};

use dot_proxy_config::ShutOut;

use super::who::Who;

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offence {
    /// Sent something on a connection that is no query.
    Malformed,
    /// Sent a datagram that is no query. Anybody can send one in its name.
    Datagram,
    /// Did not finish a query, or did not take its replies.
    Slow,
    /// Connected and never asked.
    Unused,
    /// Took more connections, queries or octets than its share.
    Share,
}

/// How a client is restrained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restraint {
    /// Nothing of it is served.
    ShutOut,
    /// Its datagrams are served only with a DNS cookie: that they came from its address was never proved, neither
    /// by those for which it is restrained. On connections it is served as ever.
    CookieRequired,
    /// So many of its datagrams are looked at in a second, and no more: it is of this machine.
    Slowed,
}

/// How a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is served.
    Free,
    /// This datagram is served, if it has a cookie.
    CookieRequired,
    /// It is not served.
    ShutOut,
    /// This datagram is not looked at.
    Slowed,
}

/// That a client is restrained from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restrained {
    /// Who.
    pub who: Who,
    /// How.
    pub restraint: Restraint,
    /// How often in a row, this time included.
    pub times: u32,
    /// For how long.
    pub time: Duration,
}

/// A client, as people are shown it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Who.
    pub who: Who,
    /// Its score now.
    pub score: f32,
    /// How often it did what of late, less what time has forgiven; in the order of [`Offence::ALL`].
    pub counts: [f32; KINDS],
    /// How it is restrained, and for how much longer.
    pub restraint: Option<(Restraint, Duration)>,
    /// How often it was restrained in a row.
    pub times: u32,
    /// How long ago it last misbehaved.
    pub ago: Duration,
}

/// Kinds of offences.
pub const KINDS: usize = 5;

/// The clients that misbehaved of late.
#[derive(Debug)]
pub struct Table {
    settings: ShutOut,
    places: HashMap<Who, usize, foldhash::fast::RandomState>,
    entries: Vec<Entry>,
    restrained: usize,
    /// For choosing whom to forget.
    random: u64,
}

#[derive(Debug)]
struct Entry {
    who: Who,
    counts: [f32; KINDS],
    /// When the counts were what they are.
    counted: Instant,
    /// When it last misbehaved.
    last: Instant,
    restraint: Option<(Restraint, Instant)>,
    times: u32,
    /// When the last restraint ended.
    behaved_since: Option<Instant>,
    /// When the next datagram is looked at, for who is slowed.
    next: Option<Instant>,
}

impl Offence {
    /// Every kind.
    pub const ALL: [Self; KINDS] = [Self::Malformed, Self::Datagram, Self::Slow, Self::Unused, Self::Share];

    /// For labels, and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Datagram => "datagram",
            Self::Slow => "slow",
            Self::Unused => "unused",
            Self::Share => "share",
        }
    }
}

impl Restraint {
    /// For labels, and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShutOut => "shut-out",
            Self::CookieRequired => "cookie-required",
            Self::Slowed => "slowed",
        }
    }
}

impl Table {
    /// An empty one; the number makes the choice of whom to forget unforeseeable.
    pub fn new(settings: ShutOut, random: u64) -> Self {
        Self { settings, places: HashMap::default(), entries: Vec::new(), restrained: 0, random: random | 1 }
    }

    /// How many are restrained.
    pub fn restrained(&self) -> usize {
        self.restrained
    }

    /// Takes down what a client did; tells if it is restrained for it.
    pub fn note(&mut self, who: Who, offence: Offence, now: Instant) -> Option<Restrained> {
        let at = self.place(who, now);
        let Self { settings, entries, .. } = self;
        let entry = &mut entries[at];
        entry.fade(settings, now);
        entry.last = now;
        entry.counts[offence as usize] += 1.0;
        let restraint = entry.deserves(settings)?;
        let wider = matches!((entry.restraint, restraint), (Some((Restraint::CookieRequired, _)), Restraint::ShutOut));
        if entry.restraint.is_some() && !wider {
            return None;
        }
        let time = entry.sentence(settings, now);
        if entry.restraint.replace((restraint, now + time)).is_none() {
            self.restrained += 1;
        }
        Some(Restrained { who, restraint, times: entry.times, time })
    }

    /// How a client stands, that has sent a datagram or connects.
    pub fn standing(&mut self, who: Who, now: Instant) -> Standing {
        let Some(entry) = self.places.get(&who).map(|at| &mut self.entries[*at]) else { return Standing::Free };
        match entry.restraint {
            Some((how, until)) if now < until => match how {
                Restraint::ShutOut => Standing::ShutOut,
                Restraint::CookieRequired => Standing::CookieRequired,
                Restraint::Slowed if entry.next.is_some_and(|next| now < next) => Standing::Slowed,
                Restraint::Slowed => {
                    entry.next = Some(now + Duration::from_secs(1) / self.settings.slowed_to);
                    Standing::Free
                }
            },
            _ => Standing::Free,
        }
    }

    /// Ends a restraint whose time is over; tells how it was restrained if that was so.
    pub fn release(&mut self, who: Who, now: Instant) -> Option<Restraint> {
        let entry = &mut self.entries[*self.places.get(&who)?];
        let (how, until) = entry.restraint?;
        if now < until {
            return None;
        }
        entry.restraint = None;
        entry.behaved_since = Some(until);
        self.restrained -= 1;
        Some(how)
    }

    /// Who there is, the worst first.
    pub fn rows(&mut self, now: Instant) -> Vec<Row> {
        let settings = &self.settings;
        let row = |entry: &mut Entry| {
            entry.fade(settings, now);
            let left = |until: Instant| until.saturating_duration_since(now);
            Row {
                who: entry.who,
                score: entry.score(settings, false),
                counts: entry.counts,
                restraint: entry.restraint.map(|(how, until)| (how, left(until))).filter(|(_, left)| !left.is_zero()),
                times: entry.times,
                ago: now.saturating_duration_since(entry.last),
            }
        };
        let mut rows: Vec<_> = self.entries.iter_mut().map(row).collect();
        rows.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.who.cmp(&b.who)));
        rows
    }

    /// Where a client's entry is; one is made if there is none, if need be in place of another's.
    fn place(&mut self, who: Who, now: Instant) -> usize {
        let most = usize::try_from(self.settings.remembered).unwrap_or(usize::MAX);
        if self.entries.len() >= most && !self.places.contains_key(&who) {
            self.forget_one(now);
        }
        match self.places.entry(who) {
            Place::Occupied(at) => *at.get(),
            Place::Vacant(vacant) => {
                self.entries.push(Entry::new(who, now));
                *vacant.insert(self.entries.len() - 1)
            }
        }
    }

    /// Forgets one of the least among a few: looking at all would let a flood of addresses cost more than it is worth.
    fn forget_one(&mut self, now: Instant) {
        const LOOKED_AT: usize = 8;
        let mut least: Option<(bool, f32, usize)> = None;
        for _ in 0..LOOKED_AT {
            let at = self.random_place();
            let entry = &mut self.entries[at];
            entry.fade(&self.settings, now);
            let rank = (entry.restraint.is_some(), entry.score(&self.settings, true), at);
            if least.is_none_or(|least| (rank.0, rank.1) < (least.0, least.1)) {
                least = Some(rank);
            }
        }
        let Some((restrained, _, at)) = least else { return };
        let gone = self.entries.swap_remove(at);
        self.places.remove(&gone.who);
        self.restrained -= usize::from(restrained);
        if let Some(moved) = self.entries.get(at) {
            self.places.insert(moved.who, at);
        }
    }

    /// By xorshift (Marsaglia 2003).
    fn random_place(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let count = self.entries.len() as u64;
        usize::try_from(self.random % count).expect("less than the length of a Vec")
    }
}

impl Entry {
    fn new(who: Who, now: Instant) -> Self {
        Self {
            who,
            counts: [0.0; KINDS],
            counted: now,
            last: now,
            restraint: None,
            times: 0,
            behaved_since: None,
            next: None,
        }
    }

    /// Forgives what time has passed for.
    fn fade(&mut self, settings: &ShutOut, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_secs_f32();
        // Less than this changes nothing that a score of 32 bits would show.
        if passed > 0.001 {
            let factor = (-passed / settings.half_life_seconds as f32).exp2();
            self.counts.iter_mut().for_each(|count| *count *= factor);
            self.counted = now;
        }
    }

    /// The score, of all that it did or without what anybody could have done in its name.
    fn score(&self, settings: &ShutOut, proven: bool) -> f32 {
        let weights = &settings.weights;
        let datagram = if proven { 0 } else { weights.datagram };
        let weights = [weights.malformed, datagram, weights.slow, weights.unused, weights.share];
        self.counts.iter().zip(weights).map(|(count, weight)| count * weight as f32).sum()
    }

    fn deserves(&self, settings: &ShutOut) -> Option<Restraint> {
        let over = |proven| settings.score > 0 && self.score(settings, proven) >= settings.score as f32;
        match self.who {
            // A new connection has a new port, and a bad one ends by itself.
            Who::Loopback(0) => None,
            Who::Loopback(_) => over(false).then_some(Restraint::Slowed),
            _ if over(true) => Some(Restraint::ShutOut),
            _ => over(false).then_some(Restraint::CookieRequired),
        }
    }

    /// For how long it is restrained this time.
    fn sentence(&mut self, settings: &ShutOut, now: Instant) -> Duration {
        let most = Duration::from_secs(settings.most_seconds.into());
        if self.behaved_since.is_some_and(|since| now.saturating_duration_since(since) >= most) {
            self.times = 0;
        }
        let doubled = 1u64.checked_shl(self.times).unwrap_or(u64::MAX);
        self.times = self.times.saturating_add(1).min(63);
        Duration::from_secs(u64::from(settings.seconds).saturating_mul(doubled)).min(most)
    }
}

#[cfg(test)]
mod tests;
