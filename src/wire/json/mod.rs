//! JSON in the dialects that stock clients write and accept (remoting reference, 1.3, 3.0).
//!
//! The reader accepts what fastjson emits and strict libraries refuse: unquoted keys, objects as
//! keys, numbers as strings and strings as numbers, null for absent values. It works in one pass
//! without building a tree, so it uses no more memory than the result.
//!
//! Output is compact: one stock client splits routes at commas and colons and fails on a single
//! blank.
//!
//! A body is a struct that derives `Serialize` and `Deserialize`: [`de`] decodes it, [`ser`]
//! encodes it, [`types`] has the lists, maps and keys that serde does not know. Headers, which are
//! hot, use [`read`] and [`write`] directly. Not here: which fields there are.

pub mod de;
pub mod read;
pub mod ser;
pub mod types;
pub mod write;
