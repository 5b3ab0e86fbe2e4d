//! The route table of a NameServer.
