//! Faults of a run: what is taken away from the servers, when, and for how long.

use std::time::Duration;

/// An injected fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub at_ns: u64,
    pub kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// SIGKILL; restarted after `down`.
    KillBroker { down: Duration },
    /// SIGKILL of the NameServer with this index, restarted after `down`; `None`: it stays dead.
    KillNameServer { index: usize, down: Option<Duration> },
    /// SIGSTOP; SIGCONT after `length`.
    FreezeBroker { length: Duration },
    /// SIGKILL of the broker on the machine that leads the first shard; restarted after `down`.
    KillMachine { down: Duration },
    /// SIGSTOP of that broker; SIGCONT after `length`.
    PauseMachine { length: Duration },
    /// The machine that leads the first shard and the other replicas do not hear each other, in
    /// both directions or in one, for `length`. Clients and NameServers still reach all of them.
    Partition { heard: Heard, length: Duration },
    /// Fills the file system of the data directory to the share `to` of its size, for `length`.
    FillDisk { to: f64, length: Duration },
    /// Limits the device of the data directory to these rates, for `length`.
    SlowDisk { writes_per_s: u64, bytes_per_s: u64, length: Duration },
}

/// What still passes between a machine and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// It hears the others.
    Others,
    /// The others hear it.
    Itself,
}

impl FaultKind {
    /// Whether it takes away a machine whose work others take over.
    pub fn is_of_machine(&self) -> bool {
        matches!(
            self,
            Self::KillMachine { .. } | Self::PauseMachine { .. } | Self::Partition { .. }
        )
    }

    /// How long it lasts; `None`: to the end of the run.
    pub fn length(&self) -> Option<Duration> {
        match self {
            Self::KillBroker { down } | Self::KillMachine { down } => Some(*down),
            Self::KillNameServer { down, .. } => *down,
            Self::FreezeBroker { length }
            | Self::PauseMachine { length }
            | Self::Partition { length, .. }
            | Self::FillDisk { length, .. }
            | Self::SlowDisk { length, .. } => Some(*length),
        }
    }
}

/// Whether `faults` need a network between the replicas that can be cut.
pub fn has_partition(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| matches!(fault.kind, FaultKind::Partition { .. }))
}

/// Number of NameServer processes that `faults` need: one more than can die.
pub fn nameservers(faults: &[Fault]) -> u16 {
    let index = |fault: &Fault| match fault.kind {
        FaultKind::KillNameServer { index, .. } => Some(index as u16),
        _ => None,
    };
    faults.iter().filter_map(index).max().map_or(0, |highest| highest + 2)
}
