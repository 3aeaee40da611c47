//! dot-e2e
