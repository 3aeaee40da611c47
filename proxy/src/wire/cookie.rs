//! DNS cookies on the wire (RFC 7873 §4).

use super::option;

/// What a client shows, or is given: its own part, and the server's, which is of 16 octets as this proxy makes them
/// (RFC 9018 §4); what other servers made is none to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// The Client Cookie.
    pub client: [u8; CLIENT],
    /// The Server Cookie.
    pub server: Option<[u8; SERVER]>,
}

/// Octets of a Client Cookie.
pub const CLIENT: usize = 8;

/// Octets of a Server Cookie.
pub const SERVER: usize = 16;

/// Octets of the option with both parts, its head included.
pub const OPTION: usize = 4 + CLIENT + SERVER;

/// A cookie whose length is none that a cookie has (RFC 7873 §5.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Cookie {
    /// The cookie among the options of an OPT, the first if there are several (RFC 7873 §5.2).
    pub(super) fn among(options: &[u8]) -> Result<Option<Self>, Malformed> {
        let cookie = option::each(options).find(|(code, _)| *code == option::COOKIE);
        cookie.map(|(_, whole)| Self::of(&whole[4..])).transpose()
    }

    fn of(data: &[u8]) -> Result<Self, Malformed> {
        let (client, server) = data.split_first_chunk().ok_or(Malformed)?;
        match server.len() {
            0 | 8..=32 => Ok(Self { client: *client, server: server.try_into().ok() }),
            _ => Err(Malformed),
        }
    }

    /// The option for a client; nothing without a part of the server's.
    pub(super) fn as_option(self) -> Option<[u8; OPTION]> {
        let server = self.server?;
        let mut option = [0; OPTION];
        let (head, parts) = option.split_at_mut(4);
        head.copy_from_slice(&[0, 10, 0, 24]);
        parts[..CLIENT].copy_from_slice(&self.client);
        parts[CLIENT..].copy_from_slice(&server);
        Some(option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option(length: usize) -> Vec<u8> {
        let octets = u8::try_from(length).unwrap();
        [&[0, 10, 0, octets][..], &vec![7; length]].concat()
    }

    #[test]
    fn a_cookie_has_a_client_s_part_of_eight_octets_and_perhaps_a_server_s_of_8_to_32() {
        for length in 0..=50 {
            let cookie = Cookie::among(&option(length));
            let server = match length {
                8 | 16..=23 | 25..=40 => Ok(Some(None)),
                24 => Ok(Some(Some([7; SERVER]))),
                _ => Err(Malformed),
            };
            assert_eq!(cookie.map(|cookie| cookie.map(|cookie| cookie.server)), server, "{length}");
        }
    }

    #[test]
    fn it_is_found_among_other_options_and_the_first_counts() {
        let padding = [0, 12, 0, 2, 0, 0];
        let options = [&padding[..], &option(24), &option(8)].concat();
        let cookie = Cookie::among(&options).unwrap().unwrap();
        assert_eq!(cookie.as_option().unwrap()[..], option(24)[..]);
        assert_eq!(Cookie::among(&padding), Ok(None));
        assert_eq!(Cookie { server: None, ..cookie }.as_option(), None);
    }

    proptest! {
        #[test]
        fn any_options_are_read_or_refused_without_a_panic(options in prop::collection::vec(prop_oneof![Just(0u8), Just(10), any::<u8>()], 0..60)) {
            let _ = Cookie::among(&options);
        }
    }
}
