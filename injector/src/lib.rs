//! dot-injector
