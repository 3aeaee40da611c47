//! Random subdomains: each query for another name, none of which exists, so that no cache helps.

use super::Random;
use super::flood::Messages;

pub(super) struct RandomNames {
    random: Random,
    query: Vec<u8>,
}

impl RandomNames {
    pub(super) fn new() -> Self {
        let head = [0x4e, 0x58, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let name = b"\x0caaaaaaaaaaaa\x05flood\x05bench\x04test\0";
        Self { random: Random::new(), query: [&head[..], name, &[0, 1, 0, 1]].concat() }
    }
}

impl Messages for RandomNames {
    fn next(&mut self) -> &[u8] {
        let random = self.random.next();
        for (letter, shift) in self.query[13..25].iter_mut().zip((0..).step_by(5)) {
            *letter = b'a' + u8::try_from((random >> shift) % 26).expect("a letter's number");
        }
        &self.query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone;

    #[test]
    fn each_name_is_another_and_none_exists() {
        let mut names = RandomNames::new();
        let (one, other) = (names.next().to_vec(), names.next().to_vec());
        assert_ne!(one, other);
        let mut reply = Vec::new();
        assert!(zone::answer(&one, &mut reply));
        assert_eq!(reply[2 + 3] & 15, 3);
    }
}
