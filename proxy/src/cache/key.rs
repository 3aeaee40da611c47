//! What tells one answer from another: the name whatever its letter case, type, class, DO and CD.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use crate::wire::flag;
use crate::wire::name::Name;
use crate::wire::request::{Asked, Question};

/// A question as the cache knows it; borrows the message, so that a hit copies nothing.
#[derive(Debug, Clone, Copy)]
pub struct Key<'q> {
    question: Question<'q>,
    variant: Variant,
    recursion_desired: bool,
    name_hash: u64,
    hash: u64,
}

/// DO and CD: who asks with other ones may get another answer (RFC 4035 §3.2, RFC 6840 §5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant(u8);

/// Drawn once per process from the system's randomness: names that collide on purpose cannot be chosen from outside.
static SEED: LazyLock<(u64, SharedSeed)> = LazyLock::new(|| {
    let random = || RandomState::new().build_hasher().finish();
    (random(), SharedSeed::from_u64(random()))
});

impl Variant {
    /// Neither.
    pub(super) const PLAIN: Self = Self(0);

    pub(super) fn of(asked: Asked) -> Self {
        Self(u8::from(asked.dnssec_ok()) | u8::from(asked.has(flag::CD)) << 1)
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }
}

impl<'q> Key<'q> {
    /// The key of a question.
    pub fn of(asked: Asked, question: Question<'q>) -> Self {
        let variant = Variant::of(asked);
        let name_hash = hash_name(question.name());
        let rest = u64::from(question.qtype()) | u64::from(question.class()) << 16;
        let hash = hash_with(name_hash, rest | u64::from(variant.0) << 32);
        Self { question, variant, recursion_desired: asked.has(flag::RD), name_hash, hash }
    }

    /// A hash that differs from process to process.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether what an upstream answers to a question that was asked so answers this one. RD counts here: without it an
    /// upstream may refuse, or tell less. What the cache has was asked with it, and is for everybody.
    pub fn is_of(&self, asked: Asked, question: Question<'_>) -> bool {
        self.variant == Variant::of(asked)
            && self.recursion_desired == asked.has(flag::RD)
            && self.question.same_as(question)
    }

    pub(super) fn question(&self) -> Question<'q> {
        self.question
    }

    pub(super) fn variant(&self) -> Variant {
        self.variant
    }

    /// The hash of the name alone: everything about a name is in one shard.
    pub(super) fn name_hash(&self) -> u64 {
        self.name_hash
    }
}

/// A further hash made of one and a number.
pub(super) fn hash_with(hash: u64, number: u64) -> u64 {
    let mut hasher = FoldHasher::with_seed(hash, &SEED.1);
    hasher.write_u64(number);
    hasher.finish()
}

/// The hash of a name whatever its letter case, sixteen octets at a time.
pub(super) fn hash_name(name: Name<'_>) -> u64 {
    let bytes = name.as_bytes();
    let (seed, shared) = &*SEED;
    // The length tells apart what the last, overlapping words do not.
    let mut hasher = FoldHasher::with_seed(seed ^ bytes.len() as u64, shared);
    let (words, rest) = bytes.as_chunks::<16>();
    for word in words {
        hasher.write_u128(lower(u128::from_le_bytes(*word)));
    }
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk::<16>()) {
        hasher.write_u128(lower(u128::from_le_bytes(*last)));
    } else if let (Some(first), Some(last)) = (rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
        hasher.write_u128(lower(join(u64::from_le_bytes(*first), u64::from_le_bytes(*last))));
    } else if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        hasher.write_u128(lower(join(first.into(), last.into())));
    } else {
        let word = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hasher.write_u128(lower(word.into()));
    }
    hasher.finish()
}

fn join(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Sixteen octets in lower case. Length octets are below 64 and so never letters.
fn lower(word: u128) -> u128 {
    const EACH: u128 = u128::from_le_bytes([1; 16]);
    let low_bits = word & (EACH * 0x7f);
    // The top bit of each octet says whether its low bits are at least `A`, or beyond `Z`; no octet carries into the next.
    let from_a = low_bits + EACH * u128::from(0x80 - b'A');
    let beyond_z = low_bits + EACH * u128::from(0x7f - b'Z');
    let upper = (from_a & !beyond_z) & !word & (EACH * 0x80);
    word | upper >> 2
}

#[cfg(test)]
impl Key<'_> {
    /// This key, as if its hashes were those of another.
    pub(super) fn with_hash_of(mut self, other: &Key<'_>) -> Self {
        (self.name_hash, self.hash) = (other.name_hash, other.hash);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::Edns;
    use proptest::prelude::*;

    #[test]
    fn questions_that_an_upstream_may_answer_differently_are_told_apart() {
        const ASKED: Asked = Asked { id: 1, flags: flag::RD, edns: None };
        let question = |bytes: &'static [u8]| Question::starting(bytes).unwrap();
        let [one, other, aaaa] =
            [question(b"\x01a\0\0\x01\0\x01"), question(b"\x01A\0\0\x01\0\x01"), question(b"\x01a\0\0\x1c\0\x01")];
        let key = Key::of(ASKED, one);
        assert!(key.is_of(Asked { id: 2, flags: flag::RD | flag::AD, edns: None }, other));
        assert!(!key.is_of(ASKED, aaaa));
        let dnssec_ok = Some(Edns { udp_payload: 1232, version: 0, dnssec_ok: true, cookie: None });
        for asked in [
            Asked { flags: 0, ..ASKED },
            Asked { flags: flag::RD | flag::CD, ..ASKED },
            Asked { edns: dnssec_ok, ..ASKED },
        ] {
            assert!(!key.is_of(asked, one), "{asked:?}");
        }
    }

    proptest! {
        #[test]
        fn sixteen_octets_are_lowered_like_one_by_one(octets in any::<[u8; 16]>()) {
            prop_assert_eq!(lower(u128::from_le_bytes(octets)).to_le_bytes().to_vec(), octets.to_ascii_lowercase());
        }

        #[test]
        fn names_hash_the_same_in_every_letter_case_and_else_differ(
            one in prop::collection::vec(any::<u8>(), 0..63), other in prop::collection::vec(any::<u8>(), 0..63),
        ) {
            let hash = |octets: &[u8]| hash_name(Name::checked(octets));
            prop_assert_eq!(hash(&one), hash(&one.to_ascii_uppercase()));
            prop_assert_eq!(hash(&one) == hash(&other), one.eq_ignore_ascii_case(&other));
        }
    }
}
