//! The log of one shard.
pub mod disk;
pub mod file;
