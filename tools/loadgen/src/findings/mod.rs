//! The findings of a run: one value, its verdict, and what is derived from it. Start reading at
//! [`report`].

pub mod document;
pub mod flow;
pub mod merge;
pub mod report;
pub mod reports;
pub mod rows;
mod shape;
pub mod summary;
pub mod text;
pub mod verdict;
