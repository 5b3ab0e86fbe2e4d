//! The fixed header, written out byte by byte, and the page that documents it.

use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};

use smallvec::smallvec;

use super::*;
use crate::model::batch::Records;
use crate::model::record::{Host, NewRecord};
use crate::model::reply::{PullStatus, Pulled};
use crate::model::request::{ProduceRecords, Pull, QueueOf};
use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp, TopicName, reply};
use crate::wire::header::fixed;
use crate::wire::{BatchFull, EncodeError, RecordBatch, encode_request};

fn records() -> ProduceRecords {
    ProduceRecords {
        queue: QueueId(3),
        count: 2,
        checksum: 0xDEAD_BEEF,
        records: Bytes::from_static(b"rr"),
    }
}

fn fetch() -> Pull {
    Pull {
        group: None,
        queue: QueueOf { topic: TopicName::new("Topic").unwrap(), queue: QueueId(3) },
        offset: 5,
        count_max: 32,
        bytes_max: Some(0x4_0000),
        commit: None,
        hold_ms: Some(15_000),
        subscription: None,
        subscription_version: 0,
    }
}

const PRODUCE: &str =
    "0000001e 02000018  01 01 0000 00000007  00000003 00000002 deadbeef 00000000  7272";
const FETCH: &str = "00000029 02000025  01 02 0000 00000007  00000003 00000020 0000000000000005
    00040000 00003a98  546f706963";

#[test]
fn requests_byte_by_byte() {
    let rows = [(PRODUCE, Request::ProduceRecords(records())), (FETCH, Request::Pull(fetch()))];
    for (bytes, expected) in rows {
        let incoming = decode_request(&frame(&unhex(bytes))).unwrap();
        assert_eq!(incoming.request.as_ref(), Ok(&expected));
        assert_eq!(incoming.reply_to.encoding, HeaderEncoding::Fixed);
        assert_eq!((incoming.reply_to.opaque, incoming.one_way), (7, false));

        let mut out = Vec::new();
        encode_request(&mut out, HeaderEncoding::Fixed, 7, false, &expected).unwrap();
        assert_eq!(out, unhex(bytes));
    }
}

#[test]
fn zero_means_the_servers_own_limit_and_no_hold() {
    let plain = Request::Pull(Pull { bytes_max: None, hold_ms: None, ..fetch() });
    let bytes = FETCH.replace("00040000 00003a98", "00000000 00000000");
    assert_eq!(request(&frame(&unhex(&bytes))), Ok(plain));
}

#[test]
fn what_does_not_fit_the_layout_is_refused_and_answered() {
    let not = |what: &str| Refusal::Malformed(format!("fixed header: {what}"));
    let replace = |bytes: &str, from: &str, to: &str| {
        assert!(bytes.contains(from));
        unhex(&bytes.replacen(from, to, 1))
    };
    #[rustfmt::skip]
    let rows = [
        (replace(PRODUCE, "deadbeef 00000000", "deadbeef 00000001"), not("spare bytes are not zero")),
        (replace(PRODUCE, "01 01 0000", "01 01 0002"), not("flags 0x0002 are unknown")),
        (replace(PRODUCE, "01 01 0000", "02 01 0000"), not("version 2; this server speaks 1")),
        (replace(PRODUCE, "01 01 0000", "01 07 0000"), Refusal::UnknownRequest { code: 7 }),
        (replace(PRODUCE, "02000018", "02000017"), not("23 bytes do not fit its kind")),
        (replace(PRODUCE, "02000018", "02000019"), not("25 bytes do not fit its kind")),
        (replace(FETCH, "01 02 0000", "01 02 0001"), not("flags 0x0001 are unknown")),
        (replace(FETCH, "02000025", "02000024"), not("a fetch has no body")),
        (replace(FETCH, "02000025", "0200001f"), not("31 bytes do not fit its kind")),
        (replace(FETCH, "546f706963", "546f7069ff"), not("the topic is not UTF-8")),
        (replace(FETCH, "546f706963", "546f706920"), Refusal::IllegalName(TopicName::new("Topi ").unwrap_err())),
    ];
    for (bytes, expected) in rows {
        let incoming = decode_request(&frame(&bytes)).unwrap();
        assert_eq!(incoming.request, Err(expected.clone()));
        let error = response::<Reply>(incoming.reply_to, Err(expected.clone())).done().unwrap_err();
        assert!(error.remark.starts_with("RINGMQ-1"), "{error}");
    }
    // Too short to be answered.
    assert!(decode_request(&frame(&unhex("0000000b 02000007 01 01 0000 000000"))).is_err());
}

#[test]
fn one_way_produces_are_reported() {
    let bytes = unhex(&PRODUCE.replacen("01 01 0000", "01 01 0001", 1));
    let incoming = decode_request(&frame(&bytes)).unwrap();
    assert!(incoming.one_way && incoming.request.is_ok());
}

fn produced() -> Reply {
    Reply::Produced(reply::Produced {
        queue: QueueId(3),
        queue_offset: QueueOffset(5),
        positions: smallvec![LogOffset(0x1234), LogOffset(0x2000)],
        store_host: Host::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_911)),
        recall_handle: None,
    })
}

fn pulled(status: PullStatus) -> Pulled {
    Pulled {
        status,
        next_offset: QueueOffset(6),
        min_offset: QueueOffset(1),
        max_offset: QueueOffset(9),
        count: 1,
        read_from: 0,
    }
}

#[test]
fn answers_byte_by_byte() {
    let numbers = "00000001 00000000 0000000000000006 0000000000000001 0000000000000009";
    #[rustfmt::skip]
    let rows = [
        (1, Ok(produced()), "00000024 02000020  01 81 0000 00000007  00000003 00000002 0000000000000005 0000000000001234".to_owned()),
        (2, Ok(Reply::Pulled(pulled(PullStatus::Found))), format!("0000002c 02000028  01 82 0000 00000007  {numbers}")),
        (2, Ok(Reply::Pulled(pulled(PullStatus::OffsetMoved))), format!("0000002c 02000028  01 82 0015 00000007  {numbers}")),
        (1, Err(Refusal::EmptyBody), format!("0000003a 02000008  01 81 000d 00000007 {}", hex(b"RINGMQ-1010 the message has no body")) .replace("0000003a", "0000002f")),
        (1, Ok(Reply::Done), "0000000c 02000008  01 81 0000 00000007".to_owned()),
    ];
    for (kind, reply, expected) in rows {
        assert_eq!(answer(reply_to(HeaderEncoding::Fixed, kind), reply), unhex(&expected));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn typed_answers() {
    let stored = response(reply_to(HeaderEncoding::Fixed, 1), Ok(produced())).produced().unwrap();
    assert_eq!((stored.queue, stored.queue_offset, stored.count), (QueueId(3), QueueOffset(5), 2));
    assert_eq!(stored.position, Some(LogOffset(0x1234)));
    for status in [
        PullStatus::Found,
        PullStatus::NothingNew,
        PullStatus::NothingMatched,
        PullStatus::OffsetMoved,
    ] {
        let reply = Ok(Reply::Pulled(pulled(status)));
        let response = response(reply_to(HeaderEncoding::Fixed, 2), reply);
        assert_eq!(response.pulled(), Ok(pulled(status)));
    }
}

#[test]
fn only_what_has_a_fixed_form_is_written() {
    let grouped = Pull { commit: Some(1), ..fetch() };
    let rows = [
        (Request::Pull(grouped), false),
        (Request::Pull(fetch()), true),
        (Request::RuntimeInfo, false),
    ];
    for (request, one_way) in rows {
        let mut out = b"before".to_vec();
        let encoding = HeaderEncoding::Fixed;
        let result = encode_request(&mut out, encoding, 7, one_way, &request);
        assert_eq!(result, Err(EncodeError::NoForm { encoding }), "{request:?}");
        assert_eq!(out, b"before");
    }
    for request in [Request::Pull(fetch()), Request::ProduceRecords(records())] {
        let encoding = HeaderEncoding::Json;
        let result = encode_request(&mut Vec::new(), encoding, 7, false, &request);
        assert_eq!(result, Err(EncodeError::NoForm { encoding }), "{request:?}");
    }
}

#[test]
fn a_batch_of_records_leaves_the_servers_fields_zero() {
    let record = NewRecord {
        topic: "T",
        queue: QueueId(3),
        flag: 1,
        system_flag: 0,
        born_at: Timestamp(9),
        born_host: Host::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 40_000)),
        reconsume_times: 0,
        body: b"hello",
        properties: [b"KEYS\x01k\x02", b""],
    };
    let mut batch = RecordBatch::new(QueueId(3), 3 * record.size() - 1);
    assert_eq!(batch.append(&record), Ok(()));
    assert_eq!(batch.append(&record), Ok(()));
    assert_eq!(batch.append(&record), Err(BatchFull));
    assert_eq!((batch.count(), batch.size()), (2, 2 * record.size()));

    let request = batch.into_request();
    assert_eq!(request.checksum, crc32c::crc32c(&request.records));
    let views: Vec<_> = Records::new(&request.records).map(Result::unwrap).collect();
    assert_eq!(views.len(), 2);
    for view in views {
        assert_eq!((view.topic, view.body, view.queue), ("T", &b"hello"[..], QueueId(3)));
        assert_eq!((view.queue_offset.0, view.physical_offset.0, view.stored_at.0), (0, 0, 0));
        let nowhere = Host { address: [0; 4], port: 0.into() };
        assert_eq!(view.store_host, Some(nowhere));
    }
}

/// `docs/wire.md` has one table per struct: offset, size, field.
#[test]
fn the_manual_draws_the_structs_as_they_are() {
    let manual = include_str!("../../../docs/wire.md");
    let drawn = |name: &str| -> Vec<(usize, usize, String)> {
        let title = format!("### `{name}`");
        let section = manual.split(&title).nth(1).unwrap_or_else(|| panic!("no section {title}"));
        let table = section.split("\n#").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].parse().unwrap(), cells[2].parse().unwrap(), cells[3].replace('`', ""))
        })
        .collect()
    };
    macro_rules! check {
        ($name:ident { $($field:ident),* }) => {
            let offsets = [$((offset_of!(fixed::$name, $field), stringify!($field))),*];
            let ends = offsets.iter().skip(1).map(|row| row.0).chain([size_of::<fixed::$name>()]);
            let expected: Vec<_> = offsets
                .iter()
                .zip(ends)
                .map(|(&(offset, field), end)| (offset, end - offset, field.to_owned()))
                .collect();
            assert_eq!(drawn(stringify!($name)), expected);
        };
    }
    check!(HeaderStart { version, kind, code_or_flags, opaque });
    check!(Produce { start, queue, count, checksum, spare });
    check!(Fetch { start, queue, count_max, offset, bytes_max, hold_ms });
    check!(ProduceReply { start, queue, count, queue_offset, position });
    check!(FetchReply { start, count, spare, next_offset, min_offset, max_offset });
}
