use std::fmt;
use std::str::FromStr;

use crate::ParseError;
use crate::rules::{Rules, quoted, rule, words};
use crate::text::written_as_text;

/// A domain name that stands for itself and everything under it, such as `cluster.local`.
///
/// Kept in lower case and without the final dot. The root is no suffix: what no suffix covers goes to `upstream`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Suffix(String);

impl Suffix {
    /// The name, in lower case, without the final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, from the left.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether `other` is this name or a name under it.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.strip_suffix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// RFC 1035 §2.3.4: a label has at most 63 octets; a name at most 255 on the wire, which is 253 as text.
const LONGEST_LABEL: usize = 63;
const LONGEST_NAME: usize = 253;

const IS_THE_ROOT: &str = "is the root, which covers every name: name a domain, such as cluster.local; what no suffix covers goes to upstream";
const IS_NO_NAME: &str =
    "is no domain name: write labels of letters, digits, - and _, separated by dots, such as cluster.local";

impl FromStr for Suffix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(ParseError::new(format!("{text:?} {IS_THE_ROOT}")));
        }
        let label_fits = |label: &str| {
            (1..=LONGEST_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() > LONGEST_NAME || !name.split('.').all(label_fits) {
            return Err(ParseError::new(format!("{text:?} {IS_NO_NAME}")));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn rules() -> Rules {
    let label = format!("[A-Za-z0-9_-]{{1,{LONGEST_LABEL}}}");
    let message = |text: &str| [quoted("self"), words(&format!(" {text}"))].join(" + ");
    Rules {
        longest: LONGEST_NAME + 1, // the final dot
        rules: vec![
            rule("self != '' && self != '.'", &[&message(IS_THE_ROOT)]),
            rule(
                &format!(r"self == '' || self == '.' || self.matches('^{label}(\\.{label})*\\.?$')"),
                &[&message(IS_NO_NAME)],
            ),
        ],
    }
}

written_as_text!(
    Suffix,
    "Suffix",
    "A domain name that stands for itself and everything under it.",
    "cluster.local",
    rules()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_the_same_whatever_its_case_and_final_dot() {
        let suffix: Suffix = "Cluster.LOCAL.".parse().unwrap();
        assert_eq!(suffix, "cluster.local".parse().unwrap());
        assert_eq!(suffix.labels().collect::<Vec<_>>(), ["cluster", "local"]);
    }

    #[test]
    fn a_suffix_covers_itself_and_names_under_it_alone() {
        let covers = |a: &str, b: &str| a.parse::<Suffix>().unwrap().covers(&b.parse().unwrap());
        assert!(covers("cluster.local", "cluster.local"));
        assert!(covers("cluster.local", "svc.cluster.local"));
        assert!(!covers("cluster.local", "mycluster.local"));
        assert!(!covers("svc.cluster.local", "cluster.local"));
    }

    #[test]
    fn what_is_no_domain_name_is_refused() {
        for text in ["", ".", "a..b", ".a", "a b", "ü.example", &"a".repeat(64), &["abcdefgh"; 29].join(".")] {
            assert!(text.parse::<Suffix>().is_err(), "{text}");
        }
    }
}
