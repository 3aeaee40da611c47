use std::fmt;
use std::str::FromStr;

use crate::ParseError;
use crate::rules::{Rules, quoted, rule, words};
use crate::text::written_as_text;

/// A number of bytes, written as Kubernetes writes quantities: `4Mi`, `512Ki`, `100M`, `65536`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const UNITS: [(&str, u64); 6] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];

const IS_NO_SIZE: &str = "is no size: write a whole number of bytes, or one with Ki, Mi, Gi, k, M or G, such as 4Mi";

impl ByteSize {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(format!("{text:?} {IS_NO_SIZE}"));
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))
            .unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS[..3].iter().rev().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match binary {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

fn rules() -> Rules {
    let message = words(&format!(" {IS_NO_SIZE}"));
    Rules {
        longest: 20, // as many digits as the largest number has
        rules: vec![rule("self.matches('^[0-9]+(Ki|Mi|Gi|k|M|G)?$')", &[&quoted("self"), &message])],
    }
}

written_as_text!(ByteSize, "ByteSize", "A number of bytes, written as Kubernetes writes quantities.", "4Mi", rules());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in
            [("0", 0), ("65536", 65_536), ("512Ki", 524_288), ("4Mi", 4_194_304), ("100M", 100_000_000)]
        {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_meant_is_refused_with_the_remedy() {
        for text in ["", "Mi", "-1", "4 Mi", "4MB", "1.5Gi", "99999999999999999999", "18446744073709551615Ki"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("such as 4Mi"), "{text}: {error}");
        }
    }

    #[test]
    fn a_size_is_written_so_that_it_reads_back_the_same() {
        for bytes in [0, 1, 1023, 1024, 4 << 20, (4 << 20) + 1, 3 << 30] {
            let size = ByteSize::from_bytes(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
