use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How DNS over HTTPS asks (RFC 8484 §4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpMethod {
    /// The question in the body: shorter, and not in the URL, which web servers write into their logs. A server that takes no
    /// POST is asked by GET.
    #[default]
    Post,
    /// The question in the URL, so that HTTP caches on the way may answer equal questions.
    Get,
}

impl HttpMethod {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
