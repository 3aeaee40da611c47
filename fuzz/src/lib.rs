//! What the fuzz targets share: a resolver that asks nobody, bytes in memory in place of a network, and control over how
//! they come.

pub mod conversation;
pub mod resolver;
