//! One file per command. They share [`run`].

pub mod conclusion;
mod consuming;
pub mod file_run;
pub mod night;
pub mod ramp;
pub mod run;
pub mod steady;
