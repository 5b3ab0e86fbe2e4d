//! What retention must not delete because copies of the log that are being sent still need it. Pure.

use crate::model::LogOffset;

/// What copies in progress still need.
#[derive(Debug, Default)]
pub struct CopyHolds {
    next_id: u64,
    holds: Vec<CopyHold>,
}

#[derive(Clone, Copy, Debug)]
struct CopyHold {
    id: u64,
    from: LogOffset,
    until_ns: u64,
}

impl CopyHolds {
    pub fn begin(&mut self, from: LogOffset, until_ns: u64) -> u64 {
        self.next_id += 1;
        self.holds.push(CopyHold { id: self.next_id, from, until_ns });
        self.next_id
    }

    pub fn move_on(&mut self, id: u64, from: LogOffset) {
        if let Some(hold) = self.holds.iter_mut().find(|hold| hold.id == id) {
            hold.from = hold.from.max(from);
        }
    }

    pub fn end(&mut self, id: u64) {
        self.holds.retain(|hold| hold.id != id);
    }

    /// The log offset from which on retention deletes nothing.
    pub fn from(&self, now_ns: u64) -> LogOffset {
        let holding = self.holds.iter().filter(|hold| now_ns < hold.until_ns);
        holding.map(|hold| hold.from).min().unwrap_or(LogOffset(u64::MAX))
    }
}
