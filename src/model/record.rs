//! The message record: stored in the log, sent in a pull reply, and addressed by physical offset.
//! One layout for disk, wire and client (remoting reference, 4.1), all integers big-endian:
//!
//! ```text
//!   0 size u32 | 4 magic u32 | 8 body crc u32 | 12 queue id u32 | 16 flag i32 | 20 queue offset u64
//!  28 physical offset u64 | 36 system flag i32 | 40 born at u64 | 48 born host 4+4
//!  56 stored at u64 | 64 store host 4+4 | 72 reconsume times i32 | 76 prepared offset u64
//!  84 body size u32 | 88 body | topic size u8 | topic | properties size u16 | properties
//! ```
//!
//! This is version 1. Only topics of groups can have names too long for a topic size of one byte;
//! their records are of version 2, with another magic and a topic size of two bytes. Clients that
//! do not know version 2 encounter it only if they use such a group.
//!
//! Hosts are IPv4 in every record we write: two stock clients misparse records with longer ones
//! (remoting reference, 4.2). The reader also accepts the longer form.

use std::fmt;
use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::byteorder::big_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::ids::{
    GROUP_TOPIC_NAME_SIZE_MAX, LogOffset, QueueId, QueueOffset, TOPIC_NAME_SIZE_MAX, Timestamp,
};

/// Magic of a record of version 1: its topic size is one byte.
pub const MAGIC: u32 = 0xDAA3_20A7;
/// Magic of a record of version 2: its topic size is two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;

/// Body is compressed by the client (remoting reference, 4.3).
pub const SYSTEM_FLAG_COMPRESSED: i32 = 1;
/// Set for a transaction's half message and for one that was rolled back: of the two bits 4 and 8
/// that distinguish the kinds, the one that plain and committed messages do not have (remoting
/// reference, 4.3).
pub const SYSTEM_FLAG_PREPARED: i32 = 4;
/// Both of them.
pub const SYSTEM_FLAGS_OF_TRANSACTION: i32 = SYSTEM_FLAG_PREPARED | 8;
/// Born host has 16 address bytes.
pub const SYSTEM_FLAG_BORN_HOST_V6: i32 = 16;
/// Store host has 16 address bytes.
pub const SYSTEM_FLAG_STORE_HOST_V6: i32 = 32;
/// Flags that describe the layout; 64 and 128 mark a message that contains several. The writer of
/// the record sets them; the client's values are not stored.
pub const SYSTEM_FLAGS_OF_LAYOUT: i32 =
    SYSTEM_FLAG_BORN_HOST_V6 | SYSTEM_FLAG_STORE_HOST_V6 | 64 | 128;

/// Largest body a producer may send, bytes (remoting reference, 7.4, `maxMessageSize`).
pub const BODY_SIZE_MAX: usize = 4 << 20;
/// Largest property string a record can hold, bytes.
pub const PROPERTIES_SIZE_MAX: usize = i16::MAX as usize;
/// Largest record, bytes.
pub const RECORD_SIZE_MAX: usize = size_of::<RecordHead>()
    + BODY_SIZE_MAX
    + 2
    + GROUP_TOPIC_NAME_SIZE_MAX
    + 2
    + PROPERTIES_SIZE_MAX;

/// An IPv4 address and port as a record stores them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Host {
    pub address: [u8; 4],
    pub port: U32,
}

impl From<SocketAddrV4> for Host {
    fn from(address: SocketAddrV4) -> Self {
        Self { address: address.ip().octets(), port: U32::new(u32::from(address.port())) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddrV4::from(*self).fmt(f)
    }
}

impl From<Host> for SocketAddrV4 {
    fn from(host: Host) -> Self {
        // A larger port is invalid; readers do not depend on it.
        Self::new(Ipv4Addr::from(host.address), host.port.get() as u16)
    }
}

/// The fixed part before the body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHead {
    /// Size of the whole record, including this field.
    pub size: U32,
    pub magic: U32,
    /// See [`body_checksum`].
    pub body_checksum: U32,
    pub queue_id: U32,
    /// The user's flag, stored unchanged.
    pub flag: I32,
    pub queue_offset: U64,
    /// Log offset of this record.
    pub physical_offset: U64,
    pub system_flag: I32,
    pub born_at_ms: U64,
    pub born_host: Host,
    pub stored_at_ms: U64,
    pub store_host: Host,
    pub reconsume_times: I32,
    pub prepared_offset: U64,
    pub body_size: U32,
}

const _: () = {
    assert!(size_of::<RecordHead>() == 88);
    assert!(align_of::<RecordHead>() == 1);
    assert!(offset_of!(RecordHead, queue_id) == 12);
    assert!(offset_of!(RecordHead, queue_offset) == 20);
    assert!(offset_of!(RecordHead, physical_offset) == 28);
    assert!(offset_of!(RecordHead, born_host) == 48);
    assert!(offset_of!(RecordHead, stored_at_ms) == 56);
    assert!(offset_of!(RecordHead, body_size) == 84);
};

/// The fields that the storing shard sets.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub queue_offset: QueueOffset,
    pub physical_offset: LogOffset,
    pub stored_at: Timestamp,
    pub store_host: Host,
}

impl RecordHead {
    /// Sets the fields that only the storing shard knows.
    pub fn place(&mut self, placement: &Placement) {
        self.queue_offset.set(placement.queue_offset.0);
        self.physical_offset.set(placement.physical_offset.0);
        self.stored_at_ms.set(placement.stored_at.0);
        self.store_host = placement.store_host;
    }
}

/// A record to be written. `properties` has a second part for what a whole batch shares; if the
/// first part lacks its final separator, as some clients do, one is inserted.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    pub topic: &'a str,
    pub queue: QueueId,
    pub flag: i32,
    pub system_flag: i32,
    pub born_at: Timestamp,
    pub born_host: Host,
    pub reconsume_times: i32,
    pub body: &'a [u8],
    pub properties: [&'a [u8]; 2],
}

/// Maximum number of bytes that a single message needs in the log beyond the request that brings
/// it, which also contains the topic, the properties and the body. In a batch, each message needs
/// about as much.
pub const RECORD_OVERHEAD_MAX: usize = size_of::<RecordHead>();

impl NewRecord<'_> {
    /// Size of the record. At most [`RECORD_SIZE_MAX`] once the parts have been checked.
    pub fn size(&self) -> usize {
        size_of::<RecordHead>()
            + self.body.len()
            + topic_size_size(self.topic)
            + self.topic.len()
            + size_of::<U16>()
            + self.properties_size()
    }

    pub fn properties_size(&self) -> usize {
        self.properties_parts().iter().map(|part| part.len()).sum()
    }

    fn properties_parts(&self) -> [&[u8]; 3] {
        let [own, shared] = self.properties;
        let is_open = own.last().is_some_and(|byte| *byte != PROPERTY_END) && !shared.is_empty();
        [own, if is_open { &[PROPERTY_END] } else { &[] }, shared]
    }

    /// Writes the record over the first [`size`](Self::size) bytes of `out`.
    ///
    /// # Panics
    /// If `out` is too small, or topic or properties exceed their size fields; callers check both
    /// at admission.
    pub fn write(&self, placement: &Placement, out: &mut [u8]) {
        assert!(self.topic.len() <= GROUP_TOPIC_NAME_SIZE_MAX);
        assert!(self.properties_size() <= PROPERTIES_SIZE_MAX);
        let topic_size = (self.topic.len() as u16).to_be_bytes();
        let topic_size = &topic_size[size_of::<u16>() - topic_size_size(self.topic)..];
        let mut head = RecordHead {
            size: U32::new(self.size() as u32),
            magic: U32::new(if topic_size.len() == 1 { MAGIC } else { MAGIC_V2 }),
            body_checksum: U32::new(body_checksum(self.body)),
            queue_id: U32::new(self.queue.0),
            flag: I32::new(self.flag),
            queue_offset: U64::ZERO,
            physical_offset: U64::ZERO,
            system_flag: I32::new(self.system_flag),
            born_at_ms: U64::new(self.born_at.0),
            born_host: self.born_host,
            stored_at_ms: U64::ZERO,
            store_host: Host { address: [0; 4], port: U32::ZERO },
            reconsume_times: I32::new(self.reconsume_times),
            prepared_offset: U64::ZERO,
            body_size: U32::new(self.body.len() as u32),
        };
        head.place(placement);
        let properties_size = U16::new(self.properties_size() as u16);
        let [own, end, shared] = self.properties_parts();
        let mut rest = out;
        for part in [
            head.as_bytes(),
            self.body,
            topic_size,
            self.topic.as_bytes(),
            properties_size.as_bytes(),
            own,
            end,
            shared,
        ] {
            let (to, after) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = after;
        }
    }
}

/// Bytes of the topic size in a record of `topic`.
fn topic_size_size(topic: &str) -> usize {
    if topic.len() <= TOPIC_NAME_SIZE_MAX { size_of::<u8>() } else { size_of::<U16>() }
}

/// Why bytes are not a valid message record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record is truncated: {has} of {needs} bytes")]
    Short { has: usize, needs: usize },
    #[error("record magic is {0:#010x}")]
    Magic(u32),
    #[error("record declares {said} bytes, but its parts add up to {parts}")]
    Size { said: usize, parts: usize },
    #[error("record topic is not UTF-8")]
    Topic,
}

/// A record read in place.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub size: usize,
    pub magic: u32,
    pub body_checksum: u32,
    pub queue: QueueId,
    pub flag: i32,
    pub queue_offset: QueueOffset,
    pub physical_offset: LogOffset,
    pub system_flag: i32,
    pub born_at: Timestamp,
    /// `None` when the host is IPv6.
    pub born_host: Option<Host>,
    pub stored_at: Timestamp,
    /// `None` when the host is IPv6.
    pub store_host: Option<Host>,
    pub reconsume_times: i32,
    pub prepared_offset: LogOffset,
    pub body: &'a [u8],
    pub topic: &'a str,
    pub properties: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads the record at the start of `bytes`, which may be longer.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader { bytes, at: 0 };
        let size = reader.u32()? as usize;
        let magic = reader.u32()?;
        if magic != MAGIC && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if size > bytes.len() {
            return Err(RecordError::Short { has: bytes.len(), needs: size });
        }
        reader.bytes = &bytes[..size];
        let body_checksum = reader.u32()?;
        let queue = QueueId(reader.u32()?);
        let flag = reader.u32()? as i32;
        let queue_offset = QueueOffset(reader.u64()?);
        let physical_offset = LogOffset(reader.u64()?);
        let system_flag = reader.u32()? as i32;
        let born_at = Timestamp(reader.u64()?);
        let born_host = reader.host(system_flag & SYSTEM_FLAG_BORN_HOST_V6 != 0)?;
        let stored_at = Timestamp(reader.u64()?);
        let store_host = reader.host(system_flag & SYSTEM_FLAG_STORE_HOST_V6 != 0)?;
        let reconsume_times = reader.u32()? as i32;
        let prepared_offset = LogOffset(reader.u64()?);
        let body_size = reader.u32()? as usize;
        let body = reader.take(body_size)?;
        let topic_size = match magic {
            MAGIC => usize::from(reader.take(1)?[0]),
            _ => usize::from(reader.u16()?),
        };
        let topic =
            std::str::from_utf8(reader.take(topic_size)?).map_err(|_| RecordError::Topic)?;
        let properties_size = usize::from(reader.u16()?);
        let properties = reader.take(properties_size)?;
        if reader.at != size {
            return Err(RecordError::Size { said: size, parts: reader.at });
        }
        Ok(Self {
            size,
            magic,
            body_checksum,
            queue,
            flag,
            queue_offset,
            physical_offset,
            system_flag,
            born_at,
            born_host,
            stored_at,
            store_host,
            reconsume_times,
            prepared_offset,
            body,
            topic,
            properties,
        })
    }
}

/// Reads fields one after another and never past the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], RecordError> {
        let short =
            RecordError::Short { has: self.bytes.len(), needs: self.at.saturating_add(size) };
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..size)).ok_or(short)?;
        self.at += size;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        let bytes = self.take(size_of::<U16>())?;
        Ok(U16::ref_from_bytes(bytes).expect("two bytes were taken").get())
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        let bytes = self.take(size_of::<U32>())?;
        Ok(U32::ref_from_bytes(bytes).expect("four bytes were taken").get())
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        let bytes = self.take(size_of::<U64>())?;
        Ok(U64::ref_from_bytes(bytes).expect("eight bytes were taken").get())
    }

    fn host(&mut self, is_v6: bool) -> Result<Option<Host>, RecordError> {
        if is_v6 {
            self.take(16 + size_of::<U32>())?;
            return Ok(None);
        }
        let bytes = self.take(size_of::<Host>())?;
        Ok(Some(*Host::ref_from_bytes(bytes).expect("eight bytes were taken")))
    }
}

/// Adds where a message that comes back was first, unless its properties say so already.
pub fn push_first_place(out: &mut Vec<u8>, message: &RecordView<'_>) {
    if property(message.properties, PROPERTY_RETRY_TOPIC).is_none() {
        push_property(out, PROPERTY_RETRY_TOPIC, message.topic.as_bytes());
    }
    if property(message.properties, PROPERTY_ORIGIN_MESSAGE_ID).is_none()
        && let Some(host) = message.store_host
    {
        let mut id = Vec::with_capacity(32);
        push_offset_id(&mut id, host, message.physical_offset);
        push_property(out, PROPERTY_ORIGIN_MESSAGE_ID, &id);
    }
}

/// The message id that stock tools use: host, port and log offset in upper-case hex (remoting
/// reference, 4.6).
pub fn push_offset_id(out: &mut Vec<u8>, host: Host, position: LogOffset) {
    let address = u64::from(u32::from_be_bytes(host.address));
    push_hex(out, address << 32 | u64::from(host.port.get()));
    push_hex(out, position.0);
}

/// The log offset in such an id.
pub fn position_in_id(id: &str) -> Option<LogOffset> {
    let digits = id.get(id.len().checked_sub(2 * size_of::<u64>())?..)?;
    u64::from_str_radix(digits, 16).ok().map(LogOffset)
}

fn push_hex(out: &mut Vec<u8>, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits: [u8; 16] =
        std::array::from_fn(|index| DIGITS[(number >> (60 - 4 * index) & 0xF) as usize]);
    out.extend_from_slice(&digits);
}

/// The body's checksum as stock clients compute it: CRC-32 without its top bit, 0 for no body
/// (remoting reference, 4.7).
pub fn body_checksum(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// Separates a property's name from its value.
pub const PROPERTY_NAME_END: u8 = 1;
/// Ends a property.
pub const PROPERTY_END: u8 = 2;

/// The value of property `name`, if present and not empty (remoting reference, 4.4).
pub fn property<'a>(properties: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pairs(properties).find_map(|pair| value_of(pair, name))
}

/// Iterates over name-value pairs, as they stand between the separators.
pub fn pairs(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = memchr::memchr(PROPERTY_END, rest).unwrap_or(rest.len());
        let pair = &rest[..size];
        rest = rest.get(size + 1..).unwrap_or_default();
        Some(pair)
    })
}

/// Appends a property.
pub fn push_property(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.push(PROPERTY_NAME_END);
    out.extend_from_slice(value);
    out.push(PROPERTY_END);
}

/// Appends `properties` without those named in `names`.
pub fn push_without(out: &mut Vec<u8>, properties: &[u8], names: &[&str]) {
    for pair in pairs(properties).filter(|pair| !pair.is_empty() && !has_name(pair, names)) {
        out.extend_from_slice(pair);
        out.push(PROPERTY_END);
    }
}

/// Whether a name-value pair, as it stands between the separators, has one of these names.
fn has_name(pair: &[u8], names: &[&str]) -> bool {
    let size = memchr::memchr(PROPERTY_NAME_END, pair).unwrap_or(pair.len());
    names.iter().any(|name| name.as_bytes() == &pair[..size])
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(&[PROPERTY_NAME_END])?;
    (!value.is_empty()).then_some(value)
}

/// How a message is handled if it is a transaction's half message (remoting reference, 5.13), has a
/// delivery delay (5.9, 5.10), or asks for a reply (3.9).
pub fn handling_of(system_flag: i32, properties: &[u8]) -> Option<Handling> {
    // Of the four kinds, plain and committed messages are visible to all.
    if system_flag & SYSTEM_FLAG_PREPARED != 0 {
        return Some(Handling::Transaction);
    }
    let mut is_request = false;
    let needed = pairs(properties).find_map(|pair| match pair.first()? {
        b'T' => {
            let is_half =
                || value_of(pair, PROPERTY_PREPARED)?.eq_ignore_ascii_case(b"true").then_some(());
            match is_half() {
                Some(()) => Some(Handling::Transaction),
                None => {
                    let is_timed =
                        TIMER_PROPERTIES.iter().any(|name| value_of(pair, name).is_some());
                    is_timed.then_some(Handling::Delay)
                }
            }
        }
        b'R' => {
            is_request |= value_of(pair, PROPERTY_REPLY_TO).is_some();
            None
        }
        b'D' => {
            let level = std::str::from_utf8(value_of(pair, PROPERTY_DELAY)?).ok()?;
            level.parse::<i32>().map_or(true, |level| level > 0).then_some(Handling::Delay)
        }
        _ => None,
    });
    needed.or(is_request.then_some(Handling::Request))
}

/// How a message is handled, if not simply stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Consumers must not see it before the transaction is committed.
    Transaction,
    /// Consumers may have to see it later.
    Delay,
    /// Consumers need the cluster's name in it to reply (remoting reference, 3.9).
    Request,
}

/// Names of the properties that delay a message (remoting reference, 5.9 and 5.10): by a level, by
/// seconds, by milliseconds, until a time of day in milliseconds.
pub const PROPERTY_DELAY: &str = "DELAY";
pub const PROPERTY_TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
pub const PROPERTY_TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
pub const PROPERTY_TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
const TIMER_PROPERTIES: [&str; 3] =
    [PROPERTY_TIMER_DELAY_SEC, PROPERTY_TIMER_DELAY_MS, PROPERTY_TIMER_DELIVER_MS];
/// All of them.
pub const DELAY_PROPERTIES: [&str; 4] =
    [PROPERTY_DELAY, PROPERTY_TIMER_DELAY_SEC, PROPERTY_TIMER_DELAY_MS, PROPERTY_TIMER_DELIVER_MS];
/// Name of the property by which a delayed message cancels another one.
pub const PROPERTY_TIMER_CANCEL: &str = "TIMER_DEL_UNIQKEY";
/// Names of the properties of a delayed message that specify where and when to deliver it.
pub const PROPERTY_REAL_TOPIC: &str = "REAL_TOPIC";
pub const PROPERTY_REAL_QUEUE: &str = "REAL_QID";
pub const PROPERTY_TIMER_OUT_MS: &str = "TIMER_OUT_MS";
/// Names of the properties of a message that returns to its group: its first topic and message id.
pub const PROPERTY_RETRY_TOPIC: &str = "RETRY_TOPIC";
pub const PROPERTY_ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";

/// Name of the property of a transaction's half message.
pub const PROPERTY_PREPARED: &str = "TRAN_MSG";

/// Name of the property with the id of the client that waits for a reply.
pub const PROPERTY_REPLY_TO: &str = "REPLY_TO_CLIENT";
/// Name of the property with the cluster's name.
pub const PROPERTY_CLUSTER: &str = "CLUSTER";
/// Name and value of the property by which 5.x consumers know that a message is traced.
pub const PROPERTY_REGION: &str = "MSG_REGION";
pub const REGION: &str = "DefaultRegion";
/// Name of the tag property.
pub const PROPERTY_TAGS: &str = "TAGS";
/// Name of the property with a message's unique key.
pub const PROPERTY_UNIQUE_KEY: &str = "UNIQ_KEY";

/// Java's `String.hashCode` of a tag: over UTF-16 units, wrapping (remoting reference, 4.7).
pub fn tag_hash(tag: &str) -> i32 {
    tag.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The hash stored in the index: of the tag, or 0 if there is none.
pub fn tag_hash_of(properties: &[u8]) -> i32 {
    let tag = property(properties, PROPERTY_TAGS).and_then(|tag| std::str::from_utf8(tag).ok());
    tag.map_or(0, tag_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remoting reference, appendix D, vector 6.
    const VECTOR: &str = "0000007bdaa320a73610a6860000000100000000000000000000000500000000000000\
        64000000000000018bcfe568007f00000100009c400000018bcfe568017f00000100002a9f0000000000000000\
        000000000000000568656c6c6f09546f706963546573740012544147530154616741024b455953016b3102";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| std::str::from_utf8(pair).unwrap().to_owned();
        digits.chunks(2).map(|two| u8::from_str_radix(&pair(two), 16).unwrap()).collect()
    }

    #[test]
    fn a_request_for_a_reply_may_still_be_delayed() {
        let request = b"REPLY_TO_CLIENT\x01c\x02".as_slice();
        assert_eq!(handling_of(0, request), Some(Handling::Request));
        assert_eq!(handling_of(0, b"REPLY_TO_CLIENT\x01\x02RETRY_TOPIC\x01t\x02"), None);
        for delay in [b"DELAY\x013\x02".as_slice(), b"TIMER_DELAY_MS\x015\x02"] {
            for properties in [[request, delay].concat(), [delay, request].concat()] {
                assert_eq!(handling_of(0, &properties), Some(Handling::Delay));
            }
        }
    }

    #[test]
    fn a_record_is_written_as_the_reference_broker_writes_it() {
        let host = |port| Host::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let record = NewRecord {
            topic: "TopicTest",
            queue: QueueId(1),
            flag: 0,
            system_flag: 0,
            born_at: Timestamp(1_700_000_000_000),
            born_host: host(40_000),
            reconsume_times: 0,
            body: b"hello",
            properties: [b"TAGS\x01TagA\x02", b"KEYS\x01k1\x02"],
        };
        let placement = Placement {
            queue_offset: QueueOffset(5),
            physical_offset: LogOffset(100),
            stored_at: Timestamp(1_700_000_000_001),
            store_host: host(10_911),
        };
        let mut out = vec![0; record.size()];
        record.write(&placement, &mut out);
        assert_eq!(out, unhex(VECTOR));
    }

    /// Stock clients omit the last separator; a batch's own properties follow it.
    #[test]
    fn properties_of_message_and_batch_stay_apart() {
        let rows: [([&[u8]; 2], &[u8]); 4] = [
            ([b"TAGS\x01a", b"WAIT\x01true\x02"], b"TAGS\x01a\x02WAIT\x01true\x02"),
            ([b"TAGS\x01a\x02", b"WAIT\x01true"], b"TAGS\x01a\x02WAIT\x01true"),
            ([b"TAGS\x01a", b""], b"TAGS\x01a"),
            ([b"", b"WAIT\x01true"], b"WAIT\x01true"),
        ];
        for (properties, expected) in rows {
            let whole = unhex(VECTOR);
            let view = RecordView::parse(&whole).unwrap();
            let record = NewRecord {
                topic: view.topic,
                queue: view.queue,
                flag: 0,
                system_flag: 0,
                born_at: view.born_at,
                born_host: view.born_host.unwrap(),
                reconsume_times: 0,
                body: view.body,
                properties,
            };
            let placement = Placement {
                queue_offset: QueueOffset(0),
                physical_offset: LogOffset(0),
                stored_at: Timestamp(0),
                store_host: view.store_host.unwrap(),
            };
            let mut out = vec![0; record.size()];
            record.write(&placement, &mut out);
            assert_eq!(RecordView::parse(&out).unwrap().properties, expected);
        }
    }

    /// Remoting reference, 4.1: the longer form is for topics of more than 127 bytes only.
    #[test]
    fn only_a_topic_that_needs_it_makes_a_record_of_version_2() {
        for (size, magic) in [(127, MAGIC), (128, MAGIC_V2), (GROUP_TOPIC_NAME_SIZE_MAX, MAGIC_V2)]
        {
            let topic = "t".repeat(size);
            let host = Host { address: [0; 4], port: 0.into() };
            let record = NewRecord {
                topic: &topic,
                queue: QueueId(1),
                flag: 0,
                system_flag: 0,
                born_at: Timestamp(1),
                born_host: host,
                reconsume_times: 3,
                body: b"hello",
                properties: [b"KEYS\x01k1\x02", b""],
            };
            let placement = Placement {
                queue_offset: QueueOffset(5),
                physical_offset: LogOffset(100),
                stored_at: Timestamp(2),
                store_host: host,
            };
            let mut out = vec![0; record.size()];
            record.write(&placement, &mut out);
            assert_eq!(U32::ref_from_prefix(&out[4..]).unwrap().0.get(), magic, "{size} bytes");
            let view = RecordView::parse(&out).unwrap();
            assert_eq!((view.topic, view.body, view.size), (&*topic, &b"hello"[..], out.len()));
            assert_eq!(property(view.properties, "KEYS"), Some(&b"k1"[..]));
            assert!(RecordView::parse(&out[..out.len() - 1]).is_err());
        }
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let whole = unhex(VECTOR);
        let view = RecordView::parse(&whole).unwrap();
        assert_eq!((view.topic, view.body), ("TopicTest", &b"hello"[..]));
        assert_eq!(property(view.properties, "KEYS"), Some(&b"k1"[..]));
        assert_eq!(tag_hash_of(view.properties), 2_598_919);
        for cut in 0..whole.len() {
            assert!(RecordView::parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn hashes_and_checksums_are_those_of_the_reference() {
        let rows =
            [("TagA", 2_598_919), ("TopicTest", -1_902_610_879), ("order-created", -392_709_271)];
        for (tag, hash) in rows {
            assert_eq!(tag_hash(tag), hash, "{tag}");
        }
        assert_eq!(body_checksum(b"hello"), 0x3610_A686);
        assert_eq!(body_checksum(b""), 0);
    }
}
