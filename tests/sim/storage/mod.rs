//! The storage engine on a simulated disk.
//!
//! [`shard`] plays the broker: it appends records whose content follows from their queue and
//! number, so everything found can be checked against what was sent.

mod ages;
mod basics;
mod commit;
mod crash;
mod cut;
mod damage;
mod faults;
mod index;
mod raw;
mod recovery;
mod retention;
mod room;
mod rot;
mod shard;
mod snapshots;
