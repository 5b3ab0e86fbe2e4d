//! The storage engine on a simulated disk.
//!
//! [`shard`] stands in for the broker. It derives the content of a record from its queue and number, so
//! every record can be verified when it is read.

mod ages;
mod basics;
mod commit;
mod copies;
pub mod crash;
mod cut;
mod damage;
pub mod faults;
mod index;
mod raw;
pub mod recovery;
mod retention;
mod room;
mod rot;
mod shard;
mod snapshots;
mod votes;
