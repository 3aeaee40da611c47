use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ParseError;

/// Which server of a group is asked first. Whatever the strategy, one that fails is left out until it answers again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The one that has answered fastest of late; now and then another is asked, to know better.
    #[default]
    Fastest,
    /// The first as written; the others stand by for its failure.
    Ordered,
    /// One after the other, so that each gets an equal share of the queries.
    RoundRobin,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 3] = [Self::Fastest, Self::Ordered, Self::RoundRobin];

    /// The word a person writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fastest => "fastest",
            Self::Ordered => "ordered",
            Self::RoundRobin => "round-robin",
        }
    }
}

impl FromStr for Strategy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
            .ok_or_else(|| ParseError::new(format!("{text:?} is no strategy: write fastest, ordered or round-robin")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_is_read_by_its_own_name_in_a_file_and_as_a_flag() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.as_str().parse(), Ok(strategy));
            assert_eq!(serde_json::to_value(strategy).unwrap(), strategy.as_str());
        }
        assert!("random".parse::<Strategy>().unwrap_err().to_string().contains("fastest, ordered or round-robin"));
    }
}
