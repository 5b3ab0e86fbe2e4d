//! One file for each command; what they share is a [`run`].

pub mod conclusion;
pub mod file_run;
pub mod night;
pub mod ramp;
pub mod run;
pub mod steady;
