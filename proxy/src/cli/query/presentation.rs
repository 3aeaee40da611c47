//! Records as text (RFC 1035 §5.1), for a person. What a server sent is escaped wherever it is not plain printable ASCII, so
//! that nothing in it can command a terminal; types without a form here are written generically (RFC 3597 §5).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::BASE64;
use hickory_proto::rr::{DNSClass, RecordType};

use crate::wire::name::{Name, expand};
use crate::wire::{Record, read_u16, read_u32};

/// A type's mnemonic, or TYPE and its number.
pub(super) fn type_name(record_type: RecordType) -> String {
    match record_type {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// A record: name, TTL, class, type, data. `None` for one whose name cannot be read.
pub(super) fn line(message: &[u8], record: &Record) -> Option<String> {
    let mut name = Vec::new();
    expand(message, record.start, &mut name)?;
    let (class, record_type) = (DNSClass::from(record.class), RecordType::from(record.rtype));
    let data = Data { message, at: record.rdata, end: record.end };
    // Data that is not what its type says is shown all the same.
    let text = data.text(record_type).unwrap_or_else(|| data.generic());
    Some(format!("{} {} {class} {} {text}", Name::checked(&name), record.ttl, type_name(record_type)))
}

/// What is left to read of a record's data.
#[derive(Clone, Copy)]
struct Data<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Data<'a> {
    fn text(mut self, record_type: RecordType) -> Option<String> {
        let text = match record_type {
            RecordType::A => Ipv4Addr::from(self.array()?).to_string(),
            RecordType::AAAA => Ipv6Addr::from(self.array()?).to_string(),
            RecordType::CNAME | RecordType::NS | RecordType::PTR => self.name()?,
            RecordType::MX => format!("{} {}", self.u16()?, self.name()?),
            RecordType::SRV => format!("{} {} {} {}", self.u16()?, self.u16()?, self.u16()?, self.name()?),
            RecordType::SOA => self.soa()?,
            RecordType::TXT => self.strings()?,
            RecordType::CAA => self.caa()?,
            RecordType::HTTPS | RecordType::SVCB => self.service()?,
            _ => return None,
        };
        (self.at == self.end).then_some(text)
    }

    /// RFC 3597 §5.
    fn generic(self) -> String {
        let octets = &self.message[self.at..self.end];
        let mut text = format!("\\# {}", octets.len());
        for (index, octet) in octets.iter().enumerate() {
            let space = if index == 0 { " " } else { "" };
            let _ = write!(text, "{space}{octet:02X}"); // a String takes everything
        }
        text
    }

    /// RFC 1035 §3.3.13.
    fn soa(&mut self) -> Option<String> {
        let mut text = format!("{} {}", self.name()?, self.name()?);
        for _ in 0..5 {
            let _ = write!(text, " {}", self.u32()?);
        }
        Some(text)
    }

    /// RFC 1035 §3.3.14.
    fn strings(&mut self) -> Option<String> {
        let mut strings = vec![quoted(self.string()?)];
        while self.at < self.end {
            strings.push(quoted(self.string()?));
        }
        Some(strings.join(" "))
    }

    /// RFC 8659 §4.1.
    fn caa(&mut self) -> Option<String> {
        let (flags, tag) = (self.u8()?, self.string()?);
        Some(format!("{flags} {} {}", escaped(tag), quoted(self.take(self.end - self.at)?)))
    }

    /// RFC 9460 §2.1.
    fn service(&mut self) -> Option<String> {
        let mut text = format!("{} {}", self.u16()?, self.name()?);
        while self.at < self.end {
            let (key, length) = (self.u16()?, self.u16()?);
            let end = self.at + usize::from(length);
            let value = Data { end, ..*self };
            self.take(length.into())?;
            let _ = write!(text, " {}", value.parameter(key)?);
        }
        Some(text)
    }

    /// A service parameter (RFC 9460 §14.3.2, RFC 9461).
    fn parameter(mut self, key: u16) -> Option<String> {
        let list = |items: Vec<String>| items.join(",");
        let octets = &self.message[self.at..self.end];
        Some(match key {
            0 => format!("mandatory={}", list(self.many(|value| Some(parameter_name(value.u16()?)))?)),
            1 => format!("alpn={}", quoted(list(self.many(|value| Some(escaped(value.string()?)))?).as_bytes())),
            2 if octets.is_empty() => parameter_name(key),
            3 => format!("port={}", self.u16()?),
            4 => format!("ipv4hint={}", list(self.many(|value| Some(Ipv4Addr::from(value.array()?).to_string()))?)),
            5 => format!("ech={}", BASE64.encode(octets)),
            6 => format!("ipv6hint={}", list(self.many(|value| Some(Ipv6Addr::from(value.array()?).to_string()))?)),
            _ if octets.is_empty() => parameter_name(key),
            _ => format!("{}={}", parameter_name(key), quoted(octets)),
        })
    }

    fn many(&mut self, mut one: impl FnMut(&mut Self) -> Option<String>) -> Option<Vec<String>> {
        let mut items = Vec::new();
        while self.at < self.end {
            items.push(one(self)?);
        }
        Some(items)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.end)?;
        let taken = &self.message[self.at..end];
        self.at = end;
        Some(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        self.take(LENGTH)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    fn u16(&mut self) -> Option<u16> {
        read_u16(self.take(2)?, 0)
    }

    fn u32(&mut self) -> Option<u32> {
        read_u32(self.take(4)?, 0)
    }

    /// A character-string: a length of one octet, and so many octets.
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn name(&mut self) -> Option<String> {
        let mut name = Vec::new();
        self.at = expand(self.message, self.at, &mut name).filter(|end| *end <= self.end)?;
        Some(Name::checked(&name).to_string())
    }
}

fn parameter_name(key: u16) -> String {
    let known = ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath"];
    known.get(usize::from(key)).map_or_else(|| format!("key{key}"), |name| (*name).to_owned())
}

fn quoted(octets: &[u8]) -> String {
    format!("\"{}\"", escaped(octets))
}

fn escaped(octets: &[u8]) -> String {
    let mut text = String::new();
    for octet in octets {
        let _ = match octet {
            b'"' | b'\\' => write!(text, "\\{}", char::from(*octet)),
            0x20..=0x7e => write!(text, "{}", char::from(*octet)),
            _ => write!(text, "\\{octet:03}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::from_text;
    use proptest::prelude::*;

    /// A record of this type and data at www.example.com, alone after a header; pointers may go to the name at 12.
    fn shown(record_type: u16, data: &[u8]) -> String {
        let mut message = vec![0; 12];
        message.extend(from_text("www.example.com"));
        message.extend([record_type, 1].map(u16::to_be_bytes).as_flattened());
        message.extend(300_u32.to_be_bytes());
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
        let line = line(&message, &Record::at(&message, 12).unwrap()).unwrap();
        line.strip_prefix("www.example.com. 300 IN ").unwrap().to_owned()
    }

    #[test]
    fn records_are_written_as_zone_files_have_them() {
        let soa = [&[0xc0, 12, 0xc0, 16], [1_u32, 2, 3, 4, 5].map(u32::to_be_bytes).as_flattened()].concat();
        for (record_type, data, text) in [
            (1, &[192, 0, 2, 1][..], "A 192.0.2.1"),
            (28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "AAAA 2001:db8::1"),
            (5, &[0xc0, 16], "CNAME example.com."),
            (2, b"\x02ns\xc0\x10", "NS ns.example.com."),
            (12, &[0], "PTR ."),
            (15, b"\0\x0a\x04mail\xc0\x10", "MX 10 mail.example.com."),
            (33, b"\0\x01\0\x02\x14\xe9\xc0\x10", "SRV 1 2 5353 example.com."),
            (6, &soa, "SOA www.example.com. example.com. 1 2 3 4 5"),
            (16, b"\x02hi\x00", "TXT \"hi\" \"\""),
            (257, b"\0\x05issueca.example", "CAA 0 issue \"ca.example\""),
            (
                65,
                b"\0\x01\0\0\x01\0\x06\x02h3\x02h2\0\x03\0\x02\x20\xfb\0\x04\0\x04\xc0\0\x02\x01\0\x05\0\x01a\0\x07\0\x01/",
                "HTTPS 1 . alpn=\"h3,h2\" port=8443 ipv4hint=192.0.2.1 ech=YQ== dohpath=\"/\"",
            ),
            (64, b"\0\0\xc0\x10", "SVCB 0 example.com."),
            (64, b"\0\x01\0\0\0\0\x04\0\x01\x02\x9a\0\x02\0\0\x02\x9a\0\x01x", "SVCB 1 . mandatory=alpn,key666 no-default-alpn key666=\"x\""),
            (43, &[1, 2, 0xab], "DS \\# 3 0102AB"),
            (65_280, &[], "TYPE65280 \\# 0"),
        ] {
            assert_eq!(shown(record_type, data), text);
        }
    }

    #[test]
    fn data_that_is_not_what_its_type_says_is_written_generically() {
        assert_eq!(shown(1, &[192, 0, 2]), "A \\# 3 C00002");
        assert_eq!(shown(1, &[192, 0, 2, 1, 0]), "A \\# 5 C000020100");
        assert_eq!(shown(5, &[0xc0, 0xff]), "CNAME \\# 2 C0FF");
        assert_eq!(shown(16, b"\x05hi"), "TXT \\# 3 056869");
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_sends_can_command_a_terminal(
            record_type in prop_oneof![any::<u16>(), prop::sample::select(vec![1, 2, 5, 6, 15, 16, 28, 33, 64, 65, 257])],
            data in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            prop_assert!(shown(record_type, &data).bytes().all(|octet| (0x20..=0x7e).contains(&octet)));
        }
    }
}
