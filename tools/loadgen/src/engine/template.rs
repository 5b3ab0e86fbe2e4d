//! Produce requests, encoded once and then patched.
//!
//! Requests differ in number, queue, size, born time and the stamps of their messages. So there is one
//! header per queue, encoded by `ringmq::wire`, and one body per message size. A request is a copy of
//! both with a few numbers overwritten. A number's position is found by encoding a value that occurs
//! nowhere else, so this module depends on nothing of a header's layout but the length prefix.

use bytes::Bytes;
use bytestring::ByteString;
use ringmq::model::batch::BatchItem;
use ringmq::model::record::{
    BODY_SIZE_MAX, Host, NewRecord, PROPERTY_TIMER_DELAY_MS, Placement, RecordHead, push_property,
};
use ringmq::model::request::{Produce, ProduceRecords};
use ringmq::model::topic::AUTO_CREATE_TEMPLATE;
use ringmq::model::{LogOffset, QueueId, QueueOffset, Request, Timestamp, TopicName};
use ringmq::wire::{self, HeaderEncoding};
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::engine::crc::FixedTail;
use crate::engine::payload::{Identity, MESSAGE_SIZE_MIN, PayloadMaker};

/// The generator's producer group.
pub const PRODUCER_GROUP: &str = "loadgen-producer";

/// Placeholders that are unique in an encoded header.
const NUMBER_STAND_IN: i32 = 1_987_654_321;
const BORN_STAND_IN: Timestamp = Timestamp(1_234_567_890_987);
const CHECKSUM_STAND_IN: u32 = 0xA5C3_96E7;
/// Size of the length prefix of a frame. The length excludes the prefix.
const FRAME_SIZE_FIELD: usize = size_of::<u32>();

/// The fields in which requests differ.
#[derive(Clone, Copy, Debug)]
pub struct NewRequest {
    pub number: i32,
    pub queue: u32,
    /// Index of the messages' size.
    pub size: usize,
    pub born_ms: u64,
    /// The first message; the others of the batch have the following sequences.
    pub first: Identity,
}

/// The parameters of a template.
#[derive(Clone, Debug)]
pub struct TemplateOptions<'a> {
    pub encoding: HeaderEncoding,
    pub topic: &'a TopicName,
    pub queue_count: u32,
    /// Message sizes, at least one. All messages of a batch have the same size.
    pub sizes: &'a [usize],
    pub batch: u32,
    /// No reply is requested.
    pub is_one_way: bool,
    /// Delay of each message at the broker, counted from when it was sent, ms; 0: none.
    pub delay_ms: u64,
}

impl TemplateOptions<'_> {
    /// The properties of each message.
    fn properties(&self) -> Vec<u8> {
        let mut properties = Vec::new();
        if self.delay_ms > 0 {
            let delay = self.delay_ms.to_string();
            push_property(&mut properties, PROPERTY_TIMER_DELAY_MS, delay.as_bytes());
        }
        properties
    }
}

/// Why a template cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("a batch of {size} bytes exceeds the limit of {size_max}: fewer or smaller messages")]
    BatchTooLarge { size: usize, size_max: usize },
    #[error("the request cannot be encoded: {0}")]
    Encode(String),
}

pub struct Template {
    heads: Vec<Head>,
    bodies: Vec<Body>,
}

/// Prefix and header of requests to one queue.
struct Head {
    bytes: Vec<u8>,
    number: Spot,
    born: Option<Spot>,
    checksum: Option<Spot>,
}

/// The messages of a request. They differ only in their stamps.
struct Body {
    image: Vec<u8>,
    payload: PayloadMaker,
    /// Position of the first stamp, and distance between stamps.
    stamp_at: usize,
    stride: usize,
    /// Set if messages are records, which have their own checksums.
    records: Option<RecordTails>,
}

/// Checksums of the constant bytes after a record's stamp.
struct RecordTails {
    /// The rest of the body, for the checksum in the record.
    body: FixedTail,
    /// The rest of the record, for the checksum over all records.
    record: FixedTail,
}

impl Template {
    /// # Panics
    /// If there are no sizes.
    pub fn new(options: &TemplateOptions<'_>) -> Result<Self, TemplateError> {
        let bodies: Vec<Body> =
            options.sizes.iter().map(|size| Body::new(options, *size)).collect();
        let largest = bodies.iter().map(|body| body.image.len()).max();
        if let Some(size) = largest.filter(|size| *size > BODY_SIZE_MAX) {
            return Err(TemplateError::BatchTooLarge { size, size_max: BODY_SIZE_MAX });
        }
        let heads = (0..options.queue_count)
            .map(|queue| Head::new(options, QueueId(queue), &bodies[0].image))
            .collect::<Result<_, _>>()?;
        Ok(Self { heads, bodies })
    }

    /// Appends the frame of `request`.
    pub fn append(&self, out: &mut Vec<u8>, request: &NewRequest) {
        let (head, body) = (&self.heads[request.queue as usize], &self.bodies[request.size]);
        let start = out.len();
        out.extend_from_slice(&head.bytes);
        out.extend_from_slice(&body.image);
        let (head_out, body_out) = out[start..].split_at_mut(head.bytes.len());
        let size = head_out.len() - FRAME_SIZE_FIELD + body_out.len();
        head_out[..FRAME_SIZE_FIELD].copy_from_slice(&(size as u32).to_be_bytes());
        let checksum = body.fill(body_out, request);
        head.number.write(head_out, u64::from(request.number as u32));
        if let Some(born) = &head.born {
            born.write(head_out, request.born_ms);
        }
        if let Some(spot) = &head.checksum {
            spot.write(head_out, u64::from(checksum));
        }
    }

    /// Size of a request on the wire, with messages of the first size.
    pub fn request_size(&self) -> usize {
        self.heads[0].bytes.len() + self.bodies[0].image.len()
    }
}

impl Head {
    fn new(
        options: &TemplateOptions<'_>,
        queue: QueueId,
        body: &[u8],
    ) -> Result<Self, TemplateError> {
        let request = stand_in_request(options, queue, body);
        let mut bytes = Vec::new();
        let one_way = options.is_one_way;
        wire::encode_request(&mut bytes, options.encoding, NUMBER_STAND_IN, one_way, &request)
            .map_err(|error| TemplateError::Encode(error.to_string()))?;
        bytes.truncate(bytes.len() - body.len());
        let number = Spot::find(&bytes, u64::from(NUMBER_STAND_IN as u32))
            .expect("every header carries the request's number");
        let born = Spot::find(&bytes, BORN_STAND_IN.0);
        let checksum = Spot::find(&bytes, u64::from(CHECKSUM_STAND_IN));
        Ok(Self { bytes, number, born, checksum })
    }
}

fn stand_in_request(options: &TemplateOptions<'_>, queue: QueueId, body: &[u8]) -> Request {
    let body = Bytes::copy_from_slice(body);
    if options.encoding == HeaderEncoding::Fixed {
        return Request::ProduceRecords(ProduceRecords {
            queue,
            count: options.batch,
            checksum: CHECKSUM_STAND_IN,
            records: body,
        });
    }
    Request::Produce(Produce {
        group: ByteString::from_static(PRODUCER_GROUP),
        topic: options.topic.clone(),
        default_topic: ByteString::from_static(AUTO_CREATE_TEMPLATE),
        default_queue_count: options.queue_count,
        queue: Some(queue),
        system_flag: 0,
        born_at: BORN_STAND_IN,
        flag: 0,
        properties: if options.batch > 1 { Bytes::new() } else { options.properties().into() },
        reconsume_times: 0,
        retry_count_max: None,
        is_batch: options.batch > 1,
        body,
    })
}

impl Body {
    fn new(options: &TemplateOptions<'_>, message_size: usize) -> Self {
        let payload = PayloadMaker::new(message_size);
        let message = [&[0; MESSAGE_SIZE_MIN], payload.filler()].concat();
        let mut one = Vec::new();
        let mut stamp_at = 0;
        let mut records = None;
        if options.encoding == HeaderEncoding::Fixed {
            one = record(options.topic, &message, &options.properties());
            stamp_at = size_of::<RecordHead>();
            let body = FixedTail::crc32(payload.filler());
            let record = FixedTail::crc32c(&one[stamp_at + MESSAGE_SIZE_MIN..]);
            records = Some(RecordTails { body, record });
        } else if options.batch > 1 {
            let properties = options.properties();
            BatchItem { flag: 0, body: &message, properties: &properties }.write(&mut one);
            stamp_at = one.len() - properties.len() - size_of::<u16>() - message.len();
        } else {
            one = message;
        }
        let image = one.repeat(options.batch as usize);
        Self { image, payload, stamp_at, stride: one.len(), records }
    }

    /// Writes the stamps. Returns the checksum over all records, if the messages are records.
    fn fill(&self, body: &mut [u8], request: &NewRequest) -> u32 {
        let mut identity = request.first;
        let mut checksum = 0;
        for message in body.chunks_exact_mut(self.stride) {
            let stamp = self.payload.stamp(&identity);
            let stamp_end = self.stamp_at + MESSAGE_SIZE_MIN;
            message[self.stamp_at..stamp_end].copy_from_slice(stamp.as_bytes());
            identity.sequence += 1;
            let Some(tails) = &self.records else { continue };
            let (head, _) = RecordHead::mut_from_prefix(message).expect("records begin with it");
            head.queue_id.set(request.queue);
            head.born_at_ms.set(request.born_ms);
            let body_checksum = tails.body.append_to(crc32fast::hash(stamp.as_bytes()));
            head.body_checksum.set(body_checksum & 0x7FFF_FFFF);
            checksum = crc32c::crc32c_append(checksum, &message[..stamp_end]);
            checksum = tails.record.append_to(checksum);
        }
        checksum
    }
}

/// A record whose server-assigned fields are zero.
fn record(topic: &TopicName, body: &[u8], properties: &[u8]) -> Vec<u8> {
    let nobody = Host { address: [0; 4], port: U32::ZERO };
    let record = NewRecord {
        topic: topic.as_str(),
        queue: QueueId(0),
        flag: 0,
        system_flag: 0,
        born_at: Timestamp(0),
        born_host: nobody,
        reconsume_times: 0,
        body,
        properties: [properties, b""],
    };
    let nowhere = Placement {
        queue_offset: QueueOffset(0),
        physical_offset: LogOffset(0),
        stored_at: Timestamp(0),
        store_host: nobody,
    };
    let mut out = vec![0; record.size()];
    record.write(&nowhere, &mut out);
    out
}

/// Position and format of a number in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// That many decimal digits.
    Digits {
        at: usize,
        count: usize,
    },
    Big32(usize),
    Little32(usize),
    Big64(usize),
    Little64(usize),
}

impl Spot {
    /// The only occurrence of `value` in `header`; `None` if there is none.
    fn find(header: &[u8], value: u64) -> Option<Self> {
        let at = |bytes: &[u8]| memchr::memmem::find(header, bytes);
        let digits = value.to_string();
        let count = digits.len();
        // Wider formats first: they contain the narrower ones.
        None.or_else(|| at(digits.as_bytes()).map(|at| Self::Digits { at, count }))
            .or_else(|| at(&value.to_be_bytes()).map(Self::Big64))
            .or_else(|| at(&value.to_le_bytes()).map(Self::Little64))
            .or_else(|| at(&u32::try_from(value).ok()?.to_be_bytes()).map(Self::Big32))
            .or_else(|| at(&u32::try_from(value).ok()?.to_le_bytes()).map(Self::Little32))
    }

    /// Writes `value`, which must have as many digits as the placeholder.
    fn write(self, header: &mut [u8], value: u64) {
        match self {
            Self::Digits { at, count } => {
                let mut rest = value;
                for digit in header[at..at + count].iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
            Self::Big32(at) => header[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes()),
            Self::Little32(at) => header[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
            Self::Big64(at) => header[at..at + 8].copy_from_slice(&value.to_be_bytes()),
            Self::Little64(at) => header[at..at + 8].copy_from_slice(&value.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ringmq::model::batch::{BatchItems, Records};
    use ringmq::model::record::body_checksum;
    use ringmq::wire::frame::FRAME_SIZE_MAX;

    use super::*;
    use crate::engine::payload;

    const QUEUES: u32 = 12;
    const SIZES: [usize; 3] = [300, 64, 2_000];

    /// The message size of requests to a queue.
    fn size_of_queue(queue: u32) -> usize {
        queue as usize % SIZES.len()
    }

    fn identity(sequence: u64) -> Identity {
        Identity { run: 77, stream: 2, lane: 0, producer: 5, sequence, due_ns: 123_456 }
    }

    /// Builds requests, and returns them as a server decodes them.
    fn decoded(encoding: HeaderEncoding, batch: u32) -> Vec<(i32, Request)> {
        delayed(encoding, batch, 0)
    }

    fn delayed(encoding: HeaderEncoding, batch: u32, delay_ms: u64) -> Vec<(i32, Request)> {
        let topic = TopicName::new("some_topic").unwrap();
        let options = TemplateOptions {
            encoding,
            topic: &topic,
            queue_count: QUEUES,
            sizes: &SIZES,
            batch,
            is_one_way: false,
            delay_ms,
        };
        let template = Template::new(&options).unwrap();
        let mut out = Vec::new();
        for queue in 0..QUEUES {
            let first = identity(u64::from(queue * batch));
            let number = 1_000_000_007 + queue as i32;
            let born_ms = 1_700_000_000_000 + u64::from(queue);
            let size = size_of_queue(queue);
            template.append(&mut out, &NewRequest { number, queue, size, born_ms, first });
        }
        let mut input = BytesMut::from(&out[..]);
        let frames = std::iter::from_fn(|| wire::next_frame(&mut input, FRAME_SIZE_MAX).unwrap());
        let decode = |frame| {
            let incoming = wire::decode_request(&frame).unwrap();
            (incoming.reply_to.opaque, incoming.request.unwrap())
        };
        frames.map(decode).collect()
    }

    fn check_body(body: &[u8], queue: u32, sequence: u64) {
        assert_eq!(body.len(), SIZES[size_of_queue(queue)]);
        assert_eq!(payload::read(body), Ok(identity(sequence)));
    }

    #[test]
    fn a_server_decodes_what_was_touched_up() {
        for (encoding, batch) in [
            (HeaderEncoding::Json, 1),
            (HeaderEncoding::Json, 3),
            (HeaderEncoding::Binary, 1),
            (HeaderEncoding::Binary, 3),
        ] {
            let requests = decoded(encoding, batch);
            assert_eq!(requests.len(), QUEUES as usize, "{encoding:?} {batch}");
            for (queue, (number, request)) in (0..QUEUES).zip(requests) {
                let Request::Produce(produce) = request else { panic!("{request:?}") };
                assert_eq!(number, 1_000_000_007 + queue as i32);
                assert_eq!(produce.queue, Some(QueueId(queue)));
                assert_eq!(produce.born_at.0, 1_700_000_000_000 + u64::from(queue));
                assert_eq!(produce.is_batch, batch > 1);
                if batch == 1 {
                    check_body(&produce.body, queue, u64::from(queue));
                    continue;
                }
                let items: Vec<_> = BatchItems::new(&produce.body).map(Result::unwrap).collect();
                assert_eq!(items.len(), batch as usize);
                for (sequence, item) in (u64::from(queue * batch)..).zip(items) {
                    check_body(item.body, queue, sequence);
                }
            }
        }
    }

    #[test]
    fn every_message_of_a_delayed_stream_says_so() {
        const DELAY: &[u8] = b"TIMER_DELAY_MS\x011500\x02";
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            for (queue, (_, request)) in (0..).zip(delayed(encoding, 1, 1_500)) {
                let Request::Produce(produce) = request else { panic!("{request:?}") };
                assert_eq!(&produce.properties[..], DELAY);
                check_body(&produce.body, queue, u64::from(queue));
            }
            for (queue, (_, request)) in (0..).zip(delayed(encoding, 2, 1_500)) {
                let Request::Produce(produce) = request else { panic!("{request:?}") };
                let items: Vec<_> = BatchItems::new(&produce.body).map(Result::unwrap).collect();
                for (sequence, item) in (u64::from(queue * 2)..).zip(items) {
                    assert_eq!(item.properties, DELAY);
                    check_body(item.body, queue, sequence);
                }
            }
        }
        for (queue, (_, request)) in (0..).zip(delayed(HeaderEncoding::Fixed, 2, 1_500)) {
            let Request::ProduceRecords(produce) = request else { panic!("{request:?}") };
            assert_eq!(produce.checksum, crc32c::crc32c(&produce.records));
            for (sequence, record) in (u64::from(queue * 2)..).zip(Records::new(&produce.records)) {
                let record = record.unwrap();
                assert_eq!(record.properties, DELAY);
                assert_eq!(record.body_checksum, body_checksum(record.body));
                check_body(record.body, queue, sequence);
            }
        }
    }

    #[test]
    fn records_carry_right_checksums() {
        for (queue, (number, request)) in (0..).zip(decoded(HeaderEncoding::Fixed, 3)) {
            let Request::ProduceRecords(produce) = request else { panic!("{request:?}") };
            assert_eq!(number, 1_000_000_007 + queue as i32);
            assert_eq!((produce.queue, produce.count), (QueueId(queue), 3));
            assert_eq!(produce.checksum, crc32c::crc32c(&produce.records));
            let records: Vec<_> = Records::new(&produce.records).map(Result::unwrap).collect();
            assert_eq!(records.len(), 3);
            for (sequence, record) in (u64::from(queue * 3)..).zip(records) {
                assert_eq!((record.topic, record.queue), ("some_topic", QueueId(queue)));
                assert_eq!(record.born_at.0, 1_700_000_000_000 + u64::from(queue));
                assert_eq!(record.body_checksum, body_checksum(record.body));
                check_body(record.body, queue, sequence);
            }
        }
    }

    #[test]
    fn batches_beyond_the_limit_are_refused() {
        let topic = TopicName::new("t").unwrap();
        let options = TemplateOptions {
            encoding: HeaderEncoding::Json,
            topic: &topic,
            queue_count: 1,
            sizes: &[100, 64 << 10],
            batch: 64,
            is_one_way: false,
            delay_ms: 0,
        };
        assert!(matches!(Template::new(&options), Err(TemplateError::BatchTooLarge { .. })));
    }
}
