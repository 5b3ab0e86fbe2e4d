//! The tables of `docs/format.md` match the structs.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests too.

use std::mem::{offset_of, size_of};

use ringmq::broker::layout::{
    DelayState, DelayedHead, DelayedItem, FactHead, GroupHead, GroupRemoved, GroupSet, LockHead,
    LockRow, OffsetRow, PendingRow, RaftEntryHead, RaftPlaceRow, RecalledRow, SentHead, SentRow,
    TopicRemoved, TopicSet, TopicTable,
};
use ringmq::storage::EntryKind;
use ringmq::storage::ages::{AgesHead, SegmentAge};
use ringmq::storage::copy::{CopyHead, CopyRow};
use ringmq::storage::entry::{ENTRY_VERSION, EntryHeader};
use ringmq::storage::identity::{IdentityHead, PeerRow};
use ringmq::storage::links::IndexLink;
use ringmq::storage::located::IndexMessage;
use ringmq::storage::proof::{EndProof, PROOF_MAGIC};
use ringmq::storage::row::{LastStoredRow, QueueRow, RowLink};
use ringmq::storage::sealed::{
    BlockHead, FENCES_PER_BLOCK, INDEX_MAGIC, INDEX_VERSION, IndexFence, IndexHead, IndexRun,
    MARKS_PER_BLOCK, MESSAGES_PER_BLOCK, RUNS_PER_BLOCK,
};
use ringmq::storage::snapshot::{SNAPSHOT_MAGIC, SnapshotHead};
use ringmq::storage::vote::VoteRecord;

const TEXT: &str = include_str!("../docs/format.md");

/// Name, field offsets, and size of a struct.
type Layout = (&'static str, Vec<(&'static str, usize)>, usize);

macro_rules! layout {
    ($name:ident { $($field:ident),* $(,)? }) => {
        (
            stringify!($name),
            vec![$((stringify!($field), offset_of!($name, $field))),*],
            size_of::<$name>(),
        )
    };
}

fn layouts() -> [Layout; 38] {
    [
        layout!(FactHead { size, subject, kind, reserved }),
        layout!(TopicSet {
            says,
            order,
            name_size,
            number,
            read_queue_count,
            write_queue_count,
            perm,
            system_flag,
            changed_at_ms,
        }),
        layout!(TopicRemoved { says, reserved, number, changed_at_ms }),
        layout!(TopicTable {
            says,
            reserved,
            next_number,
            version_counter,
            version_state,
            version_timestamp,
        }),
        layout!(GroupHead { says, reserved, name_size, row_count, used_at_ms }),
        layout!(OffsetRow { topic, queue, offset }),
        layout!(GroupSet {
            says,
            flags,
            name_size,
            retry_queue_count,
            retry_count_max,
            system_flag,
            broker_id,
            slow_broker_id,
            consume_timeout_minutes,
            reserved,
            changed_at_ms,
        }),
        layout!(GroupRemoved { says, reserved, name_size, changed_at_ms }),
        layout!(DelayState {
            cursor_due_ms,
            cursor_offset,
            carried_to,
            stored_count,
            stored_bytes,
            settled_count,
            settled_bytes,
            clock_ms,
            wall_ms,
        }),
        layout!(DelayedHead { clock_ms, wall_ms, stored_count, stored_bytes }),
        layout!(DelayedItem { due_ms }),
        layout!(PendingRow { pending_count, retry_count, since, set_at, name_size, reserved }),
        layout!(RecalledRow { due_ms, offset, sent_key }),
        layout!(LockHead { group_size, client_size, row_count }),
        layout!(LockRow { topic, queue }),
        layout!(SentHead { began_ms }),
        layout!(SentRow { key, position, queue_offset, queue, body_checksum }),
        layout!(RaftPlaceRow { index, term, end }),
        layout!(RaftEntryHead { place, kind, reserved }),
        layout!(VoteRecord { checksum, version, term, voted_for, is_committed }),
        layout!(EntryHeader {
            checksum,
            payload_size,
            own_offset,
            ordinal,
            epoch,
            subject,
            durable_lag,
            kind,
            version,
            reserved,
        }),
        layout!(BlockHead { checksum, number, segment }),
        layout!(IndexHead {
            magic,
            version,
            run_count,
            mark_count,
            message_count,
            segment_end,
            first_stored_ms,
            last_stored_ms,
        }),
        layout!(IndexFence { topic, queue, first }),
        layout!(IndexRun { topic, queue, first, start, count, links }),
        layout!(IndexLink { back, gap }),
        layout!(IndexMessage { position, size, tag_hash, entry_position, stored_ms }),
        layout!(AgesHead { elapsed_ms, wall_ms }),
        layout!(SegmentAge { segment, full_ms }),
        layout!(QueueRow { topic, queue, next, oldest, sealed_to, links }),
        layout!(RowLink { segment, end }),
        layout!(LastStoredRow { topic, queue, stored_ms }),
        layout!(EndProof {
            magic,
            checksum,
            version,
            number,
            log_offset,
            next_ordinal,
            epoch,
            reserved,
        }),
        layout!(IdentityHead { checksum, version, replica, directory, starts, joined, peer_count }),
        layout!(PeerRow { replica, directory, starts, term, index }),
        layout!(CopyHead { checksum, version, end, file_count }),
        layout!(CopyRow { part, place, size }),
        layout!(SnapshotHead {
            magic,
            checksum,
            version,
            log_offset,
            next_ordinal,
            payload_size,
            epoch,
            payload_checksum,
        }),
    ]
}

/// Returns the rows of the table that ends with `*end of name*`: offset, size, field.
fn table(name: &str) -> Vec<(usize, usize, &'static str)> {
    let end = TEXT.find(&format!("*end of {name}*")).expect("every struct has a table");
    let rows = TEXT[..end].rsplit_once("|---").expect("a table has a head").0;
    let start = rows.rfind("\n\n").unwrap_or(0);
    let body = TEXT[start..end].lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let offset = cells.get(1)?.parse().ok()?;
        Some((offset, cells.get(2)?.parse().unwrap_or(0), *cells.get(3)?))
    });
    body.collect()
}

#[test]
fn every_struct_is_drawn_as_it_is_in_code() {
    for (name, fields, size) in layouts() {
        let drawn = table(name);
        let (last, drawn_fields) = drawn.split_last().expect("a table has rows");
        assert_eq!(last.0, size, "{name}: size");
        assert_eq!(drawn_fields.len(), fields.len(), "{name}: number of fields");
        let ends = fields.iter().skip(1).map(|field| field.1).chain([size]);
        for ((field, offset), (end, row)) in fields.iter().zip(ends.zip(drawn_fields)) {
            assert_eq!(*row, (*offset, end - offset, *field), "{name}");
        }
    }
}

#[test]
fn kinds_counts_and_magics_are_named() {
    let filler = format!("| {} | Filler |", EntryKind::FILLER.0);
    assert!(TEXT.contains(&filler), "{filler}");
    let counts = format!(
        "{FENCES_PER_BLOCK} fences, {RUNS_PER_BLOCK} runs, {MARKS_PER_BLOCK} marks, or {MESSAGES_PER_BLOCK} messages"
    );
    assert!(TEXT.contains(&counts), "{counts}");
    for magic in [INDEX_MAGIC, PROOF_MAGIC, SNAPSHOT_MAGIC] {
        let magic = String::from_utf8(magic.to_vec()).unwrap();
        assert!(TEXT.contains(&format!("`{magic}`")), "{magic}");
    }
    assert!(TEXT.contains(&format!("| 8 | 4 | version | {INDEX_VERSION} |")));
    assert!(TEXT.contains(&format!("| 37 | 1 | version | {ENTRY_VERSION} |")));
}
