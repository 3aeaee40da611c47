//! `AdmissionReview`, version `admission.k8s.io/v1`: what the API server asks, and what it is answered.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    /// To be repeated in the answer.
    pub(super) uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    /// Empty for a pod with `generateName`.
    #[serde(default)]
    pub(super) name: String,
    /// The pod's own `metadata.namespace` may be empty: this one counts.
    #[serde(default)]
    pub(super) namespace: String,
    operation: String,
    #[serde(default)]
    pub(super) object: Value,
    #[serde(default)]
    pub(super) dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    group: String,
    version: String,
    resource: String,
}

/// What the API server is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_annotations: Option<Audit>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// What the API server's audit log says about the admission, under the webhook's name.
#[derive(Debug, Serialize)]
struct Audit {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewIn {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewOut {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

/// Why a body is no review that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadReview {
    message: String,
    /// In a word, for the metric.
    pub(super) reason: &'static str,
}

impl fmt::Display for BadReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl BadReview {
    fn malformed(message: String) -> Self {
        Self { message, reason: "malformed" }
    }
}

impl Request {
    /// Reads a review.
    pub(super) fn read(body: &[u8]) -> Result<Self, BadReview> {
        let review: ReviewIn = serde_json::from_slice(body)
            .map_err(|error| BadReview::malformed(format!("the body is no AdmissionReview: {error}")))?;
        if review.api_version != API_VERSION || review.kind != KIND {
            let message = format!(
                "{:?} of {:?} is not understood: send {KIND} of {API_VERSION} (admissionReviewVersions: [v1])",
                review.kind, review.api_version
            );
            return Err(BadReview { message, reason: "version" });
        }
        review.request.ok_or_else(|| BadReview::malformed("the AdmissionReview has no request".to_owned()))
    }

    /// Checks that this is about the creation of a pod, which is all that the webhook's rules should send here.
    pub(super) fn check(&self) -> Result<(), String> {
        let Resource { group, version, resource } = &self.resource;
        let sub_resource = self.sub_resource.as_deref().unwrap_or("");
        if (group.as_str(), version.as_str(), resource.as_str(), sub_resource) != ("", "v1", "pods", "") {
            return Err(format!(
                "dot-injector is asked about {resource}/{sub_resource} of {group}/{version} and knows pods of v1 alone: correct the rules of its MutatingWebhookConfiguration"
            ));
        }
        if self.operation != "CREATE" {
            return Err(format!(
                "dot-injector is asked about operation {} and knows CREATE alone: correct the rules of its MutatingWebhookConfiguration",
                self.operation
            ));
        }
        Ok(())
    }
}

impl Response {
    /// The pod may be created, changed by `patch`.
    pub(super) fn allow(uid: String, patch: &Patch, warnings: Vec<String>) -> Result<Self, serde_json::Error> {
        let patch = if patch.0.is_empty() { None } else { Some(STANDARD.encode(serde_json::to_vec(patch)?)) };
        Ok(Self {
            uid,
            allowed: true,
            status: None,
            patch_type: patch.as_ref().map(|_| "JSONPatch"),
            patch,
            warnings,
            audit_annotations: None,
        })
    }

    /// The pod is refused, as its author is told.
    pub(super) fn deny(uid: String, message: String, warnings: Vec<String>) -> Self {
        Self::refuse(uid, Status { code: 403, reason: "Forbidden", message }, warnings)
    }

    /// The pod cannot be decided about now.
    pub(super) fn fail(uid: String, message: String) -> Self {
        Self::refuse(uid, Status { code: 500, reason: "InternalError", message }, Vec::new())
    }

    fn refuse(uid: String, status: Status, warnings: Vec<String>) -> Self {
        Self {
            uid,
            allowed: false,
            status: Some(status),
            patch_type: None,
            patch: None,
            warnings,
            audit_annotations: None,
        }
    }

    /// Adds what the audit log is to say.
    pub(super) fn audited(mut self, outcome: &'static str, reason: &'static str) -> Self {
        self.audit_annotations = Some(Audit { outcome, reason });
        self
    }

    /// The review that carries this answer.
    pub(super) fn into_json(self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&ReviewOut { api_version: API_VERSION, kind: KIND, response: self })
    }
}
