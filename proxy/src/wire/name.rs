//! Domain names on the wire (RFC 1035 §3.1).

use std::fmt;
use std::ops::Range;

/// Longest name on the wire, its root label included (RFC 1035 §2.3.4).
pub const LONGEST: usize = 255;
const LONGEST_LABEL: usize = 63;

/// Where the name that starts at `at` ends, compressed or not. A pointer ends it and is not followed.
pub(crate) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=LONGEST_LABEL => at += 1 + length,
            // RFC 1035 §4.1.4: two bits set make a pointer of two octets; the other combinations mean nothing.
            0xc0.. => return (at + 2 <= message.len()).then_some(at + 2),
            _ => return None,
        }
        if at - start >= LONGEST {
            return None;
        }
    }
}

/// Whether the pointers of the name that starts at `at` each lead back (RFC 1035 §4.1.4) and to labels, so that whoever
/// follows them comes to its end, within the length of a name.
pub(crate) fn leads_back(message: &[u8], at: usize) -> bool {
    follow(message, at, |_| ()).is_some()
}

/// Appends the name that starts at `at`, its pointers followed, and says where it ends in the message. `None` for what
/// [`follow`] finds to be no name.
pub(crate) fn expand(message: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    follow(message, at, |part| {
        let part = &message[part];
        if part[0] < 0xc0 {
            out.extend_from_slice(part);
        }
    })
}

/// Follows the name that starts at `at`, and tells where its labels, each with its length, and its pointers stand; says where it
/// ends in the message. `None` for a name that is cut or too long, or whose pointers lead to no prior name (RFC 1035 §4.1.4): so none goes
/// in circles, none runs into itself, and none leads into the header, where other octets stand in a reply.
pub(crate) fn follow(message: &[u8], at: usize, mut part: impl FnMut(Range<usize>)) -> Option<usize> {
    let (mut next, mut end) = (at, None);
    // Where the labels being followed begin, and where those begin that led to them.
    let (mut start, mut later) = (at, message.len());
    let mut total = 0;
    while next < later {
        let length = usize::from(*message.get(next)?);
        match length {
            0..=LONGEST_LABEL => {
                total += 1 + length;
                if total > LONGEST {
                    return None;
                }
                message.get(next..=next + length)?;
                part(next..next + 1 + length);
                next += 1 + length;
            }
            0xc0.. => {
                let pointer = super::read_u16(message, next)?;
                part(next..next + 2);
                end = end.or(Some(next + 2));
                next = usize::from(pointer & 0x3fff);
                if !(super::HEADER..start).contains(&next) {
                    return None;
                }
                (start, later) = (next, start);
            }
            _ => return None,
        }
        if length == 0 {
            return end.or(Some(next));
        }
    }
    None
}

/// The length of the uncompressed name that starts the slice, its root label included.
pub(crate) fn uncompressed_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > LONGEST_LABEL || at > LONGEST {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// An uncompressed name, borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The caller has checked with [`uncompressed_length`] that these bytes are one name.
    pub(crate) fn checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The name's bytes, root label included.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether both are the same name, letter case aside (RFC 4343). Length octets are below 64 and so never letters.
    pub fn is(self, other: Name<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }

    /// The labels from the left, without the root.
    pub fn labels(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            (!label.is_empty()).then_some(label)
        })
    }

    /// The labels from the left down to a name that it ends in, both in lower case; `None` where it does not.
    pub fn labels_above(self, end: &[u8]) -> Option<impl Iterator<Item = &'a [u8]>> {
        let length = self.0.strip_suffix(end)?.len();
        let (mut count, mut at) = (0, 0);
        // A suffix of the bytes is a suffix of the labels only where a label starts.
        while at < length {
            at += 1 + usize::from(*self.0.get(at)?);
            count += 1;
        }
        (at == length).then(|| self.labels().take(count))
    }

    /// The name itself and each name above it, down to the root, from the longest.
    pub fn and_ancestors(self) -> impl Iterator<Item = Name<'a>> {
        let mut next = Some(self.0);
        std::iter::from_fn(move || {
            let name = next?;
            let length = usize::from(*name.first()?);
            next = if length == 0 { None } else { name.get(1 + length..) };
            Some(Name(name))
        })
    }
}

/// As text with its final dot, other octets than printable ASCII escaped (RFC 1035 §5.1), so that a log stays readable.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.labels().next().is_none() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name in lower case, on the stack: what caches and routes compare.
#[derive(Clone, Copy)]
pub struct LowerName {
    bytes: [u8; LONGEST],
    length: u8,
}

impl LowerName {
    /// The name with its ASCII letters in lower case; length octets are below 64 and so never letters.
    pub fn of(name: Name<'_>) -> Self {
        let mut bytes = [0; LONGEST];
        let source = name.as_bytes();
        bytes[..source.len()].copy_from_slice(source);
        bytes[..source.len()].make_ascii_lowercase();
        Self { bytes, length: u8::try_from(source.len()).expect("a checked name has at most 255 octets") }
    }

    /// The name.
    pub fn name(&self) -> Name<'_> {
        Name(&self.bytes[..usize::from(self.length)])
    }
}

/// A name written as text, as wire bytes; for names of our own and of the configuration, whose labels fit.
pub fn from_text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("labels were checked when the configuration was read"));
        bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HEADER;
    use proptest::prelude::*;

    #[test]
    fn labels_and_ancestors_come_from_the_left() {
        let bytes = from_text("www.Example.com");
        let name = Name::checked(&bytes);
        assert_eq!(name.labels().collect::<Vec<_>>(), [&b"www"[..], b"example", b"com"]);
        let up: Vec<_> = name.and_ancestors().map(|name| name.to_string()).collect();
        assert_eq!(up, ["www.example.com.", "example.com.", "com.", "."]);
    }

    #[test]
    fn a_name_longer_than_255_octets_is_no_name() {
        let mut bytes = [1, b'a'].repeat(127);
        bytes.push(0);
        assert_eq!(uncompressed_length(&bytes), Some(255));
        let mut longer = [1, b'a'].repeat(128);
        longer.push(0);
        assert_eq!(uncompressed_length(&longer), None);
        assert_eq!(skip(&longer, 0), None);
    }

    #[test]
    fn a_pointer_is_stepped_over_and_never_followed() {
        assert_eq!(skip(&[1, b'a', 0xc0, 0], 0), Some(4));
        assert_eq!(skip(&[0xc0], 0), None);
        assert_eq!(skip(&[0x40, 0], 0), None);
        assert_eq!(uncompressed_length(&[0xc0, 0]), None);
    }

    #[test]
    fn octets_that_would_garble_a_log_are_escaped() {
        assert_eq!(Name::checked(&[4, b'a', b'.', 0x1b, b'b', 0]).to_string(), "a\\.\\027b.");
    }

    #[test]
    fn pointers_are_followed_back_and_never_in_circles() {
        let names = [3, b'c', b'o', b'm', 0, 1, b'a', 0xc0, 12, 0xc0, 17, 0xc0, 23, 0xc0, 26, 0xc0];
        let message = [&[0; HEADER][..], &names].concat();
        let expanded = |at| {
            let mut out = vec![9];
            expand(&message, at, &mut out).map(|end| (end, out.split_off(1)))
        };
        assert_eq!(expanded(12), Some((17, from_text("com"))));
        assert_eq!(expanded(17), Some((21, from_text("a.com"))));
        assert_eq!(expanded(21), Some((23, from_text("a.com"))));
        for at in [23, 25, 27, 28] {
            assert_eq!(expanded(at), None, "{at}");
        }
    }

    #[test]
    fn a_name_that_runs_into_itself_is_none() {
        // A label of four octets, two of which are the pointer to it, and then the root.
        let message = [&[0; HEADER][..], &[4, b'a', b'b', 0xc0, 12, 0]].concat();
        assert_eq!(follow(&message, 15, |_| ()), None);
        let apart = [&[0; HEADER][..], &[2, b'a', b'b', 0, 0xc0, 12]].concat();
        assert_eq!(follow(&apart, 16, |_| ()), Some(18));
    }

    #[test]
    fn a_pointer_into_the_header_leads_to_no_name() {
        let message = [&[1, b'a', 0][..], &[0; 9], &[0, 0xc0, 0, 0xc0, 11, 0xc0, 12]].concat();
        for (at, end) in [(13, None), (15, None), (17, Some(19))] {
            assert_eq!(follow(&message, at, |_| ()), end);
        }
    }

    #[test]
    fn a_name_ends_in_another_only_where_a_label_starts() {
        let above = |name: &str, end: &str| {
            let (name, end) = (from_text(name), from_text(end));
            Name::checked(&name).labels_above(&end).map(|labels| labels.map(<[u8]>::to_vec).collect::<Vec<_>>())
        };
        assert_eq!(above("a.b.example", "example"), Some(vec![b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(above("example", "example"), Some(vec![]));
        assert_eq!(above("xexample", "example"), None);
        assert_eq!(above("example.test", "example"), None);
        // The length octet of the end, as a letter of a longer label.
        assert_eq!(Name::checked(b"\x03a\x01b\x00").labels_above(b"\x01b\x00").map(Iterator::count), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_expanded_to_a_name_or_refused(
            mut bytes in prop::collection::vec(prop_oneof![0u8..4, Just(0xc0), any::<u8>()], 0..300), at in 0usize..310,
        ) {
            bytes.insert(0, 0);
            let mut out = Vec::new();
            let expanded = expand(&bytes, at, &mut out);
            prop_assert_eq!(leads_back(&bytes, at), expanded.is_some());
            if let Some(end) = expanded {
                prop_assert_eq!(Some(end), skip(&bytes, at));
                prop_assert_eq!(uncompressed_length(&out), Some(out.len()));
            }
        }

        #[test]
        fn any_bytes_are_measured_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..310) {
            if let Some(end) = skip(&bytes, at) {
                prop_assert!(end > at && end <= bytes.len());
            }
            if let Some(length) = uncompressed_length(&bytes) {
                let name = Name::checked(&bytes[..length]);
                prop_assert_eq!(name.labels().map(|label| label.len() + 1).sum::<usize>() + 1, length);
                prop_assert_eq!(LowerName::of(name).name().as_bytes().len(), length);
            }
        }
    }
}
