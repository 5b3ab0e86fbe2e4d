//! Presents the findings to people: live during the run, as a page, and side by side.

pub mod compare;
pub mod files;
mod hdr;
pub mod live;
pub mod page;
pub mod plot;
