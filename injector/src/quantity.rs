//! Quantities of the Kubernetes API: `100m` of CPU, `64Mi` of memory.
//!
//! The injector compares them, and writes them as the API server would, so that a second call changes nothing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A quantity, exact to a billionth (as in the API), which is more than any resource needs.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    billionths: i128,
    /// Written by powers of 1024. How it is written is no part of its value.
    binary: bool,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantityError(String);

const IS_NO_QUANTITY: &str = "is no quantity: write a number such as 100m, 0.5, 64Mi or 1Gi";
const ONE: i128 = 1_000_000_000;
/// The API's own limit: 2^63-1 of the unit (`resource.Quantity`).
const LARGEST: i128 = i64::MAX as i128 * ONE;

/// Decimal suffixes and the billionths that one of them is, largest first.
const DECIMAL: [(&str, i128); 10] = [
    ("E", ONE * 1_000_000_000_000_000_000),
    ("P", ONE * 1_000_000_000_000_000),
    ("T", ONE * 1_000_000_000_000),
    ("G", ONE * 1_000_000_000),
    ("M", ONE * 1_000_000),
    ("k", ONE * 1_000),
    ("", ONE),
    ("m", 1_000_000),
    ("u", 1_000),
    ("n", 1),
];

/// Binary suffixes and the billionths that one of them is, largest first.
const BINARY: [(&str, i128); 6] =
    [("Ei", ONE << 60), ("Pi", ONE << 50), ("Ti", ONE << 40), ("Gi", ONE << 30), ("Mi", ONE << 20), ("Ki", ONE << 10)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { billionths: 0, binary: false };
    /// One of something that is counted.
    pub const ONE: Self = Self { billionths: ONE, binary: false };
    /// The smallest quantity that is not nothing.
    pub const LEAST: Self = Self { billionths: 1, binary: false };

    /// So many thousandths, as CPU is written.
    pub const fn from_millis(millis: u32) -> Self {
        Self { billionths: millis as i128 * 1_000_000, binary: false }
    }

    /// So many mebibytes.
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self { billionths: mebibytes as i128 * (ONE << 20), binary: true }
    }

    /// This and another one together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { billionths: self.billionths.saturating_add(other.billionths), binary: self.binary || other.binary }
    }

    /// Whether this is a whole number of the unit: memory comes in whole bytes.
    pub fn is_whole(self) -> bool {
        self.billionths % ONE == 0
    }

    /// This quantity divided by a ratio such as `maxLimitRequestRatio`, rounded up to a multiple of `step`. A ratio of
    /// nothing divides nothing.
    pub fn divided_by(self, ratio: Self, step: Self) -> Self {
        if ratio.billionths <= 0 || step.billionths <= 0 {
            return self;
        }
        let exact = self.billionths.saturating_mul(ONE).saturating_add(ratio.billionths - 1) / ratio.billionths;
        let steps = exact.saturating_add(step.billionths - 1) / step.billionths;
        Self { billionths: steps * step.billionths, binary: self.binary }
    }

    /// The number and the largest of `suffixes` that leave no fraction.
    fn in_whole(self, suffixes: &[(&'static str, i128)]) -> Option<(i128, &'static str)> {
        let (suffix, unit) = suffixes.iter().find(|(_, unit)| self.billionths % unit == 0)?;
        Some((self.billionths / unit, suffix))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.billionths == other.billionths
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.billionths.cmp(&other.billionths)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.billionths == 0 {
            return f.write_str("0");
        }
        let binary = if self.binary { self.in_whole(&BINARY) } else { None };
        let (number, suffix) = binary.or_else(|| self.in_whole(&DECIMAL)).unwrap_or((self.billionths, "n"));
        write!(f, "{number}{suffix}")
    }
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for QuantityError {}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refused = || QuantityError(format!("{text:?} {IS_NO_QUANTITY}"));
        let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = whole.len() + fraction.len();
        // More digits than the largest quantity has could overflow below; the API caps such values.
        if digits == 0 || digits > 38 || fraction.contains('.') {
            return Err(refused());
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| refused())?;
        let (unit, binary) = unit_of(suffix).ok_or_else(refused)?;
        let too_large = || QuantityError(format!("{text:?} is larger than any resource: write less than 8Ei"));
        let scaled = mantissa.checked_mul(unit).ok_or_else(too_large)?;
        let divisor = 10i128.pow(u32::try_from(fraction.len()).map_err(|_| refused())?);
        // The API rounds up what is finer than a billionth.
        let billionths = scaled.checked_add(divisor - 1).ok_or_else(too_large)? / divisor;
        if billionths > LARGEST { Err(too_large()) } else { Ok(Self { billionths, binary }) }
    }
}

/// What one of `suffix` is in billionths, and whether it counts by 1024.
fn unit_of(suffix: &str) -> Option<(i128, bool)> {
    if let Some((_, unit)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*unit, true));
    }
    if let Some((_, unit)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((*unit, false));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = u32::try_from(exponent + 9).ok().filter(|power| *power <= 27)?;
    Some((10i128.pow(power), false))
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// As the API reads it: a string, or a bare number as people write in YAML (`cpu: 1`).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            other => {
                return Err(D::Error::custom(format!("{other} is no quantity: write a number such as 100m or 64Mi")));
            }
        };
        text.parse().map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let number = r"^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][0-9]{1,2})?$";
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 40,
            "x-kubernetes-validations": [{
                "rule": format!("string(self).matches('{number}')"),
                "message": IS_NO_QUANTITY,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn quantities_are_written_as_the_api_server_writes_them() {
        for (written, canonical) in [
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1", "1"),
            ("1.0", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("2000", "2k"),
            ("64Mi", "64Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("64M", "64M"),
            ("67108864", "67108864"),
            ("1e3", "1k"),
            ("0", "0"),
            ("0Mi", "0"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.0000000001", "1n"),
        ] {
            assert_eq!(quantity(written).to_string(), canonical, "{written}");
        }
    }

    #[test]
    fn quantities_compare_by_value_whatever_their_suffix() {
        assert!(quantity("64M") < quantity("64Mi"));
        assert_eq!(quantity("1024"), quantity("1Ki"));
        assert!(quantity("999m") < quantity("1"));
        assert!(quantity("1Gi") > quantity("1000Mi"));
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_an_example() {
        for text in ["", "x", "-1", "1 Mi", "1MB", "Mi", ".", "1.2.3", "64mi", "1e", "9e99", "99999999999E", "1Zi"] {
            let error = text.parse::<Quantity>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("write"), "{error}");
        }
    }

    #[test]
    fn a_bare_number_is_read_as_the_api_reads_it() {
        assert_eq!(serde_json::from_str::<Quantity>("1").unwrap(), quantity("1"));
        assert_eq!(serde_json::from_str::<Quantity>("0.5").unwrap(), quantity("500m"));
        assert!(serde_json::from_str::<Quantity>("true").is_err());
    }

    #[test]
    fn dividing_by_a_ratio_rounds_up_to_the_step() {
        let (milli, byte) = (Quantity::from_millis(1), quantity("1"));
        assert_eq!(quantity("100m").divided_by(quantity("3"), milli), quantity("34m"));
        assert_eq!(quantity("64Mi").divided_by(quantity("3"), byte).to_string(), "22369622");
        assert_eq!(quantity("64M").divided_by(quantity("1.5"), byte).to_string(), "42666667");
        assert_eq!(quantity("64Mi").divided_by(quantity("2"), byte).to_string(), "32Mi");
        assert_eq!(quantity("1").divided_by(Quantity::ZERO, milli), quantity("1"));
    }

    proptest! {
        #[test]
        fn a_quantity_once_written_reads_back_as_itself(number in 0u64..=1 << 30, suffix in "(|m|k|M|G|Ki|Mi|n|u)") {
            let first = quantity(&format!("{number}{suffix}"));
            let again = quantity(&first.to_string());
            prop_assert_eq!(first.billionths, again.billionths);
            prop_assert_eq!(first.to_string(), again.to_string());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
