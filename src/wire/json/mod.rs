//! JSON as stock clients write it and as they can read it (remoting reference, 1.3, 3.0).
//!
//! Reading takes what fastjson emits and strict libraries refuse: keys without quotes, whole objects
//! as keys, numbers as texts and texts as numbers, null for "not there". A text is read in one pass
//! without building a tree, so it costs no more memory than what is kept of it.
//!
//! Writing is compact: one stock client takes routes apart by commas and colons and stumbles over a
//! single blank.
//!
//! A body is a struct that derives `Serialize` and `Deserialize`: [`de`] reads it, [`ser`] writes it,
//! [`types`] has the lists, maps and keys that serde does not know. [`read`] and [`write`] are what
//! headers, which are hot, use by hand. Not here: which fields there are.

pub mod de;
pub mod read;
pub mod ser;
pub mod types;
pub mod write;
