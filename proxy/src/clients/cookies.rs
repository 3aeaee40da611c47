//! Server Cookies (RFC 9018): who shows one that was made here, for its address and of late, got it there.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher24;
use tokio::time::Instant;

use crate::wire::cookie::{CLIENT, Cookie, SERVER};

/// A cookie older than this is none any more, in seconds (RFC 9018 §4.3).
const LIFETIME: i32 = 3_600;

/// One older than this is replaced.
const FRESH: i32 = 1_800;

/// How far a clock may be ahead, if several machines share a secret.
const AHEAD: i32 = 300;

/// Makes and knows cookies.
pub struct Cookies {
    hasher: SipHasher24,
    began: Instant,
    /// Seconds since 1970 when it began, modulo 2^32.
    epoch: u32,
}

/// What a client's cookie is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It was made here, for this address, and is not too old.
    Valid,
    /// The client asks for one.
    Asked,
    /// It is too old, was made by another, or for another.
    Invalid,
}

impl Cookies {
    /// With a secret of this run. Without randomness from the system there are none.
    pub fn with_random_secret() -> Option<Self> {
        let mut secret = [0; 16];
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(Self::new(secret, Instant::now(), since_1970))
    }

    fn new(secret: [u8; 16], began: Instant, since_1970: u64) -> Self {
        let epoch = u32::try_from(since_1970 & u64::from(u32::MAX)).expect("32 bits are left");
        Self { hasher: SipHasher24::new_with_key(&secret), began, epoch }
    }

    /// What a client's cookie is worth, and the one to answer with.
    pub fn judge(&self, cookie: Cookie, address: IpAddr, now: Instant) -> (Worth, Cookie) {
        let seconds = now.saturating_duration_since(self.began).as_secs() & u64::from(u32::MAX);
        let time = self.epoch.wrapping_add(u32::try_from(seconds).expect("32 bits are left"));
        let (worth, age) = self.worth(cookie, address, time);
        if worth == Worth::Valid && age < FRESH {
            return (worth, cookie);
        }
        let [time_0, time_1, time_2, time_3] = time.to_be_bytes();
        let head = [1, 0, 0, 0, time_0, time_1, time_2, time_3];
        (worth, Cookie { server: Some(self.server_part(&cookie.client, &head, address)), ..cookie })
    }

    /// And its age in seconds.
    fn worth(&self, cookie: Cookie, address: IpAddr, time: u32) -> (Worth, i32) {
        let Some(server) = cookie.server else { return (Worth::Asked, 0) };
        let (head, _hash) = server.split_at(8);
        // RFC 1982: time goes round every 136 years.
        let made = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        let age = time.wrapping_sub(made).cast_signed();
        let known = server[0] == 1 && (-AHEAD..=LIFETIME).contains(&age);
        // Compared as numbers, so in a time that tells nothing of where they differ.
        let same = |made: [u8; SERVER]| u128::from_be_bytes(made) == u128::from_be_bytes(server);
        if known && same(self.server_part(&cookie.client, head, address)) {
            (Worth::Valid, age)
        } else {
            (Worth::Invalid, age)
        }
    }

    /// Version, reserved octets and time, and the hash over them, the client's part and its address (RFC 9018 §4.4).
    fn server_part(&self, client: &[u8; CLIENT], head: &[u8], address: IpAddr) -> [u8; SERVER] {
        let mut input = [0; CLIENT + 8 + 16];
        input[..CLIENT].copy_from_slice(client);
        input[CLIENT..CLIENT + 8].copy_from_slice(head);
        let rest = &mut input[CLIENT + 8..];
        let length = match address.to_canonical() {
            IpAddr::V4(address) => {
                rest[..4].copy_from_slice(&address.octets());
                4
            }
            IpAddr::V6(address) => {
                rest.copy_from_slice(&address.octets());
                16
            }
        };
        let hash = self.hasher.hash(&input[..CLIENT + 8 + length]);
        let mut part = [0; SERVER];
        part[..8].copy_from_slice(head);
        part[8..].copy_from_slice(&hash.to_le_bytes());
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn cookie(hex: &str) -> Cookie {
        let (client, server) = hex.split_at(2 * CLIENT);
        Cookie { client: octets(client), server: (!server.is_empty()).then(|| octets(server)) }
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    fn cookies(secret: &str, since_1970: u64) -> (Cookies, Instant) {
        let now = Instant::now();
        (Cookies::new(octets(secret), now, since_1970), now)
    }

    #[test]
    fn the_examples_of_rfc_9018_are_made_and_known() {
        // Appendix A.1: learning a new server cookie.
        let (made_by, now) = cookies(SECRET, 1_559_731_985);
        let made = made_by.judge(cookie("2464c4abcf10c957"), "198.51.100.100".parse().unwrap(), now);
        assert_eq!(made, (Worth::Asked, cookie("2464c4abcf10c957010000005cf79f111f8130c3eee29480")));
        // A.2: the same, shown 40 minutes later, is renewed.
        let (made_by, now) = cookies(SECRET, 1_559_734_385);
        let made = made_by.judge(made.1, "198.51.100.100".parse().unwrap(), now);
        assert_eq!(made, (Worth::Valid, cookie("2464c4abcf10c957010000005cf7a871d4a564a1442aca77")));
        // A.3: with reserved octets that are not zero.
        let (made_by, now) = cookies(SECRET, 1_559_727_985);
        let shown = cookie("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        assert_eq!(made_by.judge(shown, "203.0.113.203".parse().unwrap(), now), (Worth::Valid, shown));
        // A.4: of IPv6.
        let (made_by, now) = cookies("445536bcd2513298075a5d379663c962", 1_559_741_817);
        let shown = cookie("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let address = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        assert_eq!(made_by.judge(shown, address, now).0, Worth::Invalid, "it was made with the secret before");
        let (made_by, now) = cookies("dd3bdf9344b678b185a6f5cb60fca715", 1_559_741_817);
        assert_eq!(made_by.judge(shown, address, now), (Worth::Valid, shown));
    }

    #[test]
    fn a_cookie_holds_for_its_address_and_an_hour() {
        let (made_by, now) = cookies(SECRET, 1_800_000_000);
        let address = "192.0.2.1".parse().unwrap();
        let (_, given) = made_by.judge(cookie("0102030405060708"), address, now);
        let worth = |cookie, address, seconds| made_by.judge(cookie, address, now + Duration::from_secs(seconds));
        assert_eq!(worth(given, address, 1_799), (Worth::Valid, given));
        let (renewed_worth, renewed) = worth(given, address, 1_800);
        assert!(renewed_worth == Worth::Valid && renewed != given);
        assert_eq!(worth(given, address, 3_600).0, Worth::Valid);
        assert_eq!(worth(given, address, 3_601).0, Worth::Invalid);
        assert_eq!(worth(given, "192.0.2.2".parse().unwrap(), 0).0, Worth::Invalid);
        assert_eq!(worth(given, "::ffff:192.0.2.1".parse().unwrap(), 0).0, Worth::Valid);
        for at in 0..SERVER {
            let mut altered = given;
            altered.server.as_mut().unwrap()[at] ^= 1;
            assert_eq!(worth(altered, address, 0).0, Worth::Invalid, "octet {at}");
        }
        let other_client = Cookie { client: [9; CLIENT], ..given };
        assert_eq!(worth(other_client, address, 0).0, Worth::Invalid);
    }
}
