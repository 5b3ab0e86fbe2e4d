//! Decides what the bytes that recovery finds mean. Pure; [`opening`](super::opening) reads and
//! acts.
//!
//! The log is walked entry by entry. The first place where the chain breaks is a *hole*. Either the
//! log ends there with writes that were in flight when the power failed (a torn tail, never
//! acknowledged), or acknowledged data is damaged. The evidence for damage is a snapshot, an index
//! file or the proof of the end, which show that the log once reached further, or an intact entry
//! after the hole, through its durable lag.
//!
//! | The log is known to continue at `bound` | First intact entry after the hole | An entry there proves that the hole was durable | HoleKind |
//! |---|---|---|---|
//! | yes | before `bound`  | –   | damaged up to that entry |
//! | yes | none before     | –   | damaged up to `bound` |
//! | no  | none            | –   | torn |
//! | no  | some            | no  | torn: in flight together with the hole |
//! | no  | some            | yes | damaged up to that entry |
//!
//! A torn tail is cut and reported; if it contains intact entries, a copy is kept. A damaged range
//! is kept and reported, its messages are skipped, and the log continues after it.

use std::fmt::{self, Display};
use std::ops::Range;

use crate::model::LogOffset;
use crate::planted::{self, Bug};
use crate::storage::entry::EntryHeader;
use crate::storage::segment::FileName;

/// What the entries so far imply for the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain {
    /// `None` at the start of a walk.
    pub last_ordinal: Option<u64>,
    /// Whether entries are missing since `last_ordinal`.
    pub is_broken: bool,
    pub epoch: u32,
}

impl Chain {
    /// Whether `header` can be the next entry. Leftovers of an earlier run cannot be mistaken for
    /// it: they were wiped before anything was appended.
    pub fn accepts(&self, header: &EntryHeader) -> bool {
        let ordinal = header.ordinal.get();
        let is_next = match self.last_ordinal {
            None => ordinal > 0,
            Some(_) if planted::is(Bug::IgnoresOrdinals) => true,
            Some(_) if planted::is(Bug::TakesStaleEntries) => true,
            Some(last) if self.is_broken => ordinal > last,
            Some(last) => ordinal == last + 1,
        };
        is_next && header.epoch.get() >= self.epoch
    }

    /// Whether `header` can be a later entry of this log.
    pub fn accepts_later(&self, header: &EntryHeader) -> bool {
        Self { is_broken: true, ..*self }.accepts(header)
    }

    pub fn take(&mut self, header: &EntryHeader) {
        let epoch = self.epoch.max(header.epoch.get());
        *self = Self { last_ordinal: Some(header.ordinal.get()), is_broken: false, epoch };
    }
}

/// What was found after a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterHole {
    /// The first entry that the chain accepts.
    pub first: Option<LogOffset>,
    /// The highest offset below which an entry proves that everything was on stable media.
    pub proven_durable: LogOffset,
    /// End of the last such entry.
    pub last_end: LogOffset,
    /// Up to here there are bytes that name their own offset and could be taken for an entry later.
    pub wipe_to: LogOffset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleKind {
    Torn,
    Damaged { resume: LogOffset },
}

/// The table above. `bound` is an offset at or after the hole where an entry is known to have begun
/// or the log to have ended, with everything before it on stable media.
pub fn classify(hole: LogOffset, bound: Option<LogOffset>, after: &AfterHole) -> HoleKind {
    match (bound.filter(|&bound| bound > hole), after.first) {
        (Some(bound), Some(first)) => HoleKind::Damaged { resume: first.min(bound) },
        (Some(bound), None) => HoleKind::Damaged { resume: bound },
        (None, Some(_)) if planted::is(Bug::TakesDamageForATornTail) => HoleKind::Torn,
        (None, Some(first)) if after.proven_durable > hole => HoleKind::Damaged { resume: first },
        (None, _) => HoleKind::Torn,
    }
}

/// What opening a log found and did. `Display` renders it for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub begin: LogOffset,
    /// End of the log; new entries follow.
    pub end: LogOffset,
    /// The epoch of new entries.
    pub epoch: u32,
    /// The snapshot that was restored.
    pub snapshot: Option<LogOffset>,
    /// Damaged snapshots, now removed.
    pub snapshots_damaged: Vec<LogOffset>,
    pub entries_replayed: u64,
    pub bytes_scanned: u64,
    /// Segments whose index file was missing or damaged, and is rebuilt.
    pub indexes_rebuilt: usize,
    /// Bytes after the end, of writes that were not acknowledged. Zero after an orderly stop.
    pub torn_bytes: u64,
    /// Set if there were intact entries among them: a copy has this offset in its name.
    pub tail_kept: Option<LogOffset>,
    /// Acknowledged parts of the log that are unreadable, found now or earlier.
    pub damaged: Vec<Range<LogOffset>>,
}

impl Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}..{}, epoch {}, ", self.begin, self.end, self.epoch)?;
        match self.snapshot {
            Some(offset) => write!(f, "snapshot at {offset}, ")?,
            None => f.write_str("no snapshot, ")?,
        }
        write!(f, "{} entries replayed, ", self.entries_replayed)?;
        write!(f, "{} bytes scanned, ", self.bytes_scanned)?;
        write!(f, "torn tail of {} bytes cut", self.torn_bytes)?;
        if let Some(offset) = self.tail_kept {
            let name = FileName::Cut(offset);
            write!(f, "\nthat tail had intact entries after a broken one; {name} is a copy of it")?;
            write!(f, " from log offset {offset} on; remove it if no message is missing")?;
        }
        for offset in &self.snapshots_damaged {
            write!(
                f,
                "\nsnapshot at {offset} was damaged and has been removed; an older one was used"
            )?;
        }
        for hole in &self.damaged {
            write!(f, "\n{}", damage_note(hole))?;
        }
        Ok(())
    }
}

/// Says what is lost in a damaged range and what to do. Also the content of the `.damaged` file.
pub fn damage_note(hole: &Range<LogOffset>) -> String {
    format!(
        "DAMAGED: log offsets {} to {} ({} bytes) cannot be read. Messages stored there were \
         acknowledged and are lost on this machine; consumers skip them. All other messages are \
         served. The damaged bytes are kept. To repair: stop the broker, restore the segment \
         file that holds these offsets from a backup, remove the .damaged file, start the broker.",
        hole.start,
        hole.end,
        hole.end.0 - hole.start.0,
    )
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn a_hole_is_classified_by_the_evidence() {
        let at = LogOffset;
        let hole = at(100);
        // bound, first entry after, proven durable, kind
        let rows = [
            (None, None, 0, HoleKind::Torn),
            (None, Some(200), 0, HoleKind::Torn),
            (None, Some(200), 100, HoleKind::Torn),
            (None, Some(200), 101, HoleKind::Damaged { resume: at(200) }),
            (Some(100), Some(200), 0, HoleKind::Torn),
            (Some(300), None, 0, HoleKind::Damaged { resume: at(300) }),
            (Some(300), Some(200), 0, HoleKind::Damaged { resume: at(200) }),
            (Some(300), Some(400), 0, HoleKind::Damaged { resume: at(300) }),
        ];
        for row @ (bound, first, proven, kind) in rows {
            let first = first.map(at);
            let after = AfterHole { first, proven_durable: at(proven), ..AfterHole::default() };
            assert_eq!(classify(hole, bound.map(at), &after), kind, "{row:?}");
        }
    }

    #[test]
    fn what_continues_a_chain() {
        let chain = |last_ordinal, is_broken| Chain { last_ordinal, is_broken, epoch: 3 };
        // chain, ordinal, epoch, accepted next, accepted later
        let rows = [
            (chain(Some(7), false), 8, 3, true, true),
            (chain(Some(7), false), 8, 4, true, true),
            (chain(Some(7), false), 8, 2, false, false),
            (chain(Some(7), false), 9, 3, false, true),
            (chain(Some(7), false), 7, 3, false, false),
            (chain(Some(7), true), 9, 3, true, true),
            (chain(None, false), 1, 3, true, true),
            (chain(None, false), 0, 3, false, false),
        ];
        for row @ (chain, ordinal, epoch, next, later) in rows {
            let mut header = EntryHeader::new_zeroed();
            header.ordinal.set(ordinal);
            header.epoch.set(epoch);
            assert_eq!(chain.accepts(&header), next, "{row:?}");
            assert_eq!(chain.accepts_later(&header), later, "{row:?}");
        }
    }

    #[test]
    fn the_report_says_what_is_lost_and_what_to_do() {
        let report = RecoveryReport {
            end: LogOffset(9000),
            epoch: 4,
            torn_bytes: 128,
            tail_kept: Some(LogOffset(9000)),
            damaged: vec![LogOffset(4096)..LogOffset(8192)],
            ..RecoveryReport::default()
        };
        let text = report.to_string();
        assert!(
            text.starts_with("log 0..9000, epoch 4, no snapshot, 0 entries replayed"),
            "{text}"
        );
        assert!(text.contains("torn tail of 128 bytes cut"), "{text}");
        assert!(text.contains("00000000000000009000.cut is a copy"), "{text}");
        assert!(text.contains("log offsets 4096 to 8192 (4096 bytes) cannot be read"), "{text}");
    }
}
