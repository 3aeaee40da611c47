//! dot-proxy
