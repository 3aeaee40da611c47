//! Questions as a person writes them.

use hickory_proto::rr::{Name, RecordType};

use crate::wire::CLASS_IN;

/// Reads a record type: its mnemonic, or `TYPE` and its number (RFC 3597). The error is a sentence without its subject.
pub fn parse_type(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    let numbered = upper.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok()).map(RecordType::from);
    numbered.or_else(|| upper.parse().ok()).ok_or_else(|| {
        "is no record type: write one such as A, AAAA, MX, TXT, HTTPS, or TYPE and its number (RFC 3597)".to_owned()
    })
}

/// The question in class IN as it stands in a message: name, type, class (RFC 1035 §4.1.2).
pub fn octets(name: &str, record_type: RecordType) -> Result<Vec<u8>, String> {
    let parsed = Name::from_ascii(name).map_err(|_| {
        format!(
            "{name:?} is no domain name: write labels of 63 octets at most, 253 in all, with dots between, such as www.example.com"
        )
    })?;
    let mut octets = Vec::new();
    for label in &parsed {
        octets.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        octets.extend(label);
    }
    octets.push(0);
    octets.extend([u16::from(record_type), CLASS_IN].map(u16::to_be_bytes).as_flattened());
    Ok(octets)
}
