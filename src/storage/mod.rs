//! The log of one shard: an append-only sequence of entries in segment files, and the index that
//! finds a queue's messages in it.
//!
//! ```text
//!   append ──▶ writer ──▶ commit_step ──▶ disk ──▶ committed ──▶ acknowledged, readable
//!             (buffers)   (group_commit                   │
//!                          decides)                       └──▶ tail cache, then cold reads
//!
//!   durable <= written <= end      committed <= written      (offsets in the log)
//! ```
//!
//! Start reading at [`store`], the interface; [`log`] is the state behind it. Parameters and
//! results: [`append`], [`replay`], [`config`], [`error`]. Byte layouts: [`entry`], [`segment`],
//! [`sealed`] (index files), [`snapshot`], [`proof`] (of the end), [`vote`], [`identity`],
//! [`copy`]; documented in `docs/format.md`. Decisions without I/O: [`group_commit`], [`writer`],
//! [`raw`] (entries of another replica), [`room`] (admission), [`index`], [`recovery`], [`ages`],
//! [`retention`], [`cuts`]. Disk access: [`store`], [`ticket`], [`shipping`] (to other replicas),
//! [`opening`], [`cutting`] (cuts off the end of a running log), [`copy_source`], [`staging`] and
//! [`takeover`] (a copy of the whole log), [`scan`], [`reading`], [`maintenance`] and
//! [`snapshotting`] (their state is [`upkeep`]), [`publish`] and [`twofold`] (small files). Only
//! [`file`] knows the kernel.
//!
//! Invariants:
//! - An acknowledged entry is on disk, by the rules of the configured flush. Nothing at or above
//!   `committed` has been acknowledged or shown.
//! - Bytes below `committed` never change. The last block is rewritten with the same prefix, by one
//!   write at a time.
//! - After the first failed write or sync, no watermark advances any more.
//! - A log has one owner. There are no locks; no borrow is held across a wait.
//! - Damage is reported and kept, never deleted.
//!
//! Not here: topics, groups, or what a message means (`broker`); how it was sent (`wire`).

pub mod ages;
mod append;
mod config;
pub mod copy;
mod copy_holds;
mod copy_source;
mod cuts;
mod cutting;
mod directory;
pub mod disk;
pub mod entry;
mod error;
pub mod file;
pub mod group_commit;
pub mod identity;
mod images;
pub mod index;
pub mod links;
pub mod located;
mod log;
pub mod maintenance;
mod mark_signal;
pub mod opening;
mod pace;
pub mod proof;
mod publish;
pub mod raw;
pub mod reading;
mod rebuild;
pub mod recovery;
mod replay;
pub mod retention;
mod retiring;
mod room;
pub mod row;
mod scan;
pub mod sealed;
mod sealing;
pub mod segment;
mod shipping;
pub mod signal;
pub mod slice;
pub mod snapshot;
mod snapshotting;
mod staging;
pub mod store;
pub mod tail;
mod takeover;
mod ticket;
mod twofold;
mod upkeep;
pub mod vote;
pub mod writer;

pub use ages::{Ages, ClockStep};
pub use append::{Append, AppendError, Appended, SpaceClass};
pub use config::{CommitRule, Epoch, Flush, StoreConfig};
pub use copy::{CopyFile, CopyPart, LogCopy};
pub use copy_source::{CopyReadError, CopySource};
pub use cuts::Awaited;
pub use entry::{EntryKind, PAYLOAD_SIZE_MAX, entry_size};
pub use error::{CutError, EpochError, OpenError, ReadError};
pub use group_commit::WRITES_IN_FLIGHT_MAX;
pub use identity::{Joined, Mark, StoredIdentity};
pub use index::{Index, IndexPage, Lookup};
pub use located::{Located, QueueKey};
pub use maintenance::Maintained;
pub use opening::Opening;
pub use raw::RawError;
pub use reading::EntryAt;
pub use recovery::RecoveryReport;
pub use replay::{MessagesOf, Replayed};
pub use row::{LastStoredRow, QueueRow};
pub use shipping::{RawReader, push_raw, split_at_segment};
pub use staging::{Arriving, Staging, StagingError};
pub use store::{CommitStep, Standing, Store, StoreStats};
pub use ticket::Ticket;
pub use vote::StoredVote;
