//! dot-proxy-config
