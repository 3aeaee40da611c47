//! What is asked: names that are built in, or those of a file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dot_proxy::cli::question;
use hickory_proto::rr::RecordType;

/// Names that any resolver knows, so that what is compared is the way to it and not how it finds names out.
const BUILT_IN: &str = include_str!("names.txt");

/// More than that a measurement never asks.
const MOST: usize = 1_000_000;

/// Questions as they stand in a message (RFC 1035 §4.1.2), asked in this order, again and again. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions(Arc<[Box<[u8]>]>);

impl Questions {
    /// The built-in ones: 60 names, each for A and AAAA.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads them")
    }

    /// Those of a file.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    /// One `NAME [TYPE]` a line, asked for A and AAAA where there is no type. Empty lines and what follows `#` are left out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut questions = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let written = line.split('#').next().unwrap_or_default();
            read_line(written, &mut questions).map_err(|error| format!("line {}: {error}", index + 1))?;
            if questions.len() > MOST {
                return Err(format!("has more than {MOST} questions: give fewer"));
            }
        }
        if questions.is_empty() {
            return Err("holds no name: write one a line, with a record type behind it or without".to_owned());
        }
        Ok(Self(questions.into()))
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "they are never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The question that is asked as the so-and-so-many-th, from 0.
    pub fn nth(&self, index: usize) -> &[u8] {
        &self.0[index % self.0.len()]
    }
}

fn read_line(line: &str, questions: &mut Vec<Box<[u8]>>) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let Some(name) = words.next() else { return Ok(()) };
    let types = match words.next() {
        Some(text) => vec![question::parse_type(text).map_err(|error| format!("{text:?} {error}"))?],
        None => vec![RecordType::A, RecordType::AAAA],
    };
    if let Some(word) = words.next() {
        return Err(format!("{word:?} is too much: write NAME [TYPE]"));
    }
    for record_type in types {
        questions.push(question::octets(name, record_type)?.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_built_in_are_sixty_and_each_is_asked_for_both_kinds_of_address() {
        assert_eq!(Questions::built_in().len(), 120);
    }

    #[test]
    fn a_file_has_a_name_a_line_and_perhaps_a_type() {
        let questions = Questions::parse("# mine\nexample.com MX # mail\n\n  a.example  \n").unwrap();
        assert_eq!(questions.len(), 3);
        assert_eq!(questions.nth(0), b"\x07example\x03com\0\0\x0f\0\x01");
        assert_eq!(questions.nth(2), b"\x01a\x07example\0\0\x1c\0\x01");
        assert_eq!(questions.nth(3), questions.nth(0));
    }

    #[test]
    fn a_line_that_is_no_question_is_refused_by_its_number_and_with_the_remedy() {
        for (text, remedy) in [
            ("example.com\nexa..mple", "line 2: \"exa..mple\" is no domain name"),
            ("example.com NONSENSE", "line 1: \"NONSENSE\" is no record type: write one such as A"),
            ("example.com IN A", "line 1: \"IN\" is no record type"),
            ("example.com A 1", "line 1: \"1\" is too much: write NAME [TYPE]"),
            ("# nothing\n", "holds no name"),
        ] {
            let error = Questions::parse(text).unwrap_err();
            assert!(error.contains(remedy), "{text:?}: {error}");
        }
    }
}
