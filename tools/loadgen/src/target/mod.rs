//! What a run goes to: brokers that are there, or servers of our own with the faults, samples and facts
//! that only those have. Start reading at [`cluster`].

pub mod cluster;
pub mod device;
pub mod embedded;
pub mod environment;
pub mod faults;
pub mod routes;
pub mod samples;
