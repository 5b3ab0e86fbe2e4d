//! The target of a run: existing brokers, or embedded servers. Faults, samples and facts about the
//! machine exist for embedded servers only. Start reading at [`cluster`].

pub mod cluster;
pub mod device;
pub mod embedded;
pub mod environment;
pub mod faults;
pub mod routes;
pub mod samples;
