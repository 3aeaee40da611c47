//! Why something failed, in words: an error with what caused it. A client of the API server says no more than that it could not connect.

use std::error::Error;

/// What the error says, and after it what each of its causes says that was not said yet.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            said.push_str(": ");
            said.push_str(&words);
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl std::fmt::Display for Layer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &dyn Error)
        }
    }

    #[test]
    fn each_cause_is_told_once_and_after_what_it_caused() {
        let layer = |words, cause| Layer(words, Some(Box::new(cause)));
        let client = layer("client error (Connect)", Layer("invalid peer certificate: UnknownIssuer", None));
        let error = layer("no listing: client error (Connect)", client);
        assert_eq!(with_causes(&error), "no listing: client error (Connect): invalid peer certificate: UnknownIssuer");
        assert_eq!(with_causes(&Layer("alone", None)), "alone");
    }
}
