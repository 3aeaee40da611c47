//! Why something could not be done, in a sentence for a person.

use std::fmt;

/// The sentence.
#[derive(Debug, Clone)]
pub(crate) struct Failure(String);

/// What was done, or why it could not be.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Says what was being done when something failed.
pub(crate) trait During<T> {
    /// The failure, preceded by `what`.
    fn during(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}

impl Failure {
    /// A failure with a sentence of its own.
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
