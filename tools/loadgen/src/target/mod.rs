//! The target of a run: existing brokers, or embedded servers, which alone have faults, samples and
//! facts about their machine. Start reading at [`cluster`].

pub mod cluster;
pub mod device;
pub mod embedded;
pub mod environment;
pub mod faults;
pub mod routes;
pub mod samples;
