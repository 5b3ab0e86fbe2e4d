//! Replies to produce requests.
//!
//! A plain success, as stock brokers and RingMQ write it, is recognised in the input buffer. All other
//! replies are decoded by `ringmq::wire`.

use std::io;

use ringmq::wire::{self, HeaderEncoding};
use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::{I16, I32};

use crate::engine::connection::FrameView;

/// Codes that guarantee that nothing was stored (remoting reference, 5.1, 5.11, 5.16). With all other
/// codes but 0 the outcome is unknown: 10, 11 and 12 mean stored, but not as durably as requested; 1
/// may mean anything.
const REFUSED: [i32; 9] = [2, 3, 13, 14, 16, 17, 26, 29, 215];

/// The outcome of a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// Nothing was stored; the code gives the reason.
    Refused(i32),
    /// It may or may not be stored; the code gives the reason.
    Unknown(i32),
}

impl Outcome {
    fn of(code: i32) -> Self {
        match code {
            0 => Self::Acknowledged,
            code if REFUSED.contains(&code) => Self::Refused(code),
            code => Self::Unknown(code),
        }
    }
}

/// A reply to a produce request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub number: i32,
    pub outcome: Outcome,
    /// The server's reason for a failure, without the parts that vary between requests; empty on
    /// success.
    pub reason: String,
    /// Delay before a retry that the server requests with a refusal.
    pub retry_after_ms: Option<u64>,
    /// Another replica leads; the request must be sent to it.
    pub is_elsewhere: bool,
}

/// Precedes the milliseconds in RingMQ's remarks (docs/errors.md).
const RETRY_AFTER: &str = "retry_after_ms=";
/// Precedes the number of a RingMQ error.
const CODE_PREFIX: &str = "RINGMQ-";
/// Maximum number of characters of a reason.
const REASON_LENGTH_MAX: usize = 200;
/// RingMQ's remark of a replica that does not lead.
const NOT_LEADER: &str = "RINGMQ-2009 ";

/// Reads a reply; `None` if the frame is a request by the server, or cannot be decoded.
pub fn read(frame: &FrameView<'_>) -> io::Result<Option<Reply>> {
    let plain = match frame.encoding {
        HeaderEncoding::Json => plain_json(frame.header),
        HeaderEncoding::Binary => plain_binary(frame.header),
        HeaderEncoding::Fixed => None,
    };
    if let Some(number) = plain {
        let (outcome, reason) = (Outcome::Acknowledged, String::new());
        let (retry_after_ms, is_elsewhere) = (None, false);
        return Ok(Some(Reply { number, outcome, reason, retry_after_ms, is_elsewhere }));
    }
    let reply = wire::decode_reply(&frame.header_only());
    let reply = reply.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(reply.is_reply.then(|| {
        let outcome = Outcome::of(reply.code);
        let remark = reply.remark.as_deref().unwrap_or_default();
        let reason = match outcome {
            Outcome::Acknowledged => String::new(),
            _ => reason(remark),
        };
        let hint = remark.split_whitespace().find_map(|word| word.strip_prefix(RETRY_AFTER));
        let retry_after_ms = hint.and_then(|hint| hint.parse().ok());
        let is_elsewhere = remark.starts_with(NOT_LEADER);
        Reply { number: reply.opaque, outcome, reason, retry_after_ms, is_elsewhere }
    }))
}

/// The part of a remark that similar replies have in common: the text in brackets at its beginning
/// (remoting reference, 5.1), or its words with every number replaced by `#`, except in RingMQ's own
/// codes. The end of a very long one is left out.
fn reason(remark: &str) -> String {
    let bracketed = remark.split_once(']').filter(|_| remark.starts_with('['));
    let remark = bracketed.map_or(remark, |(inside, _)| &remark[..=inside.len()]);
    let mut out = String::new();
    for word in remark.split(|it: char| it.is_whitespace() || it.is_control()) {
        let word = if bracketed.is_some() { word.to_owned() } else { without_numbers(word) };
        let length = out.chars().count() + 1 + word.chars().count();
        if !out.is_empty() && length > REASON_LENGTH_MAX {
            return out + " ...";
        }
        let space = if out.is_empty() || word.is_empty() { "" } else { " " };
        out.extend([space, word.as_str()]);
    }
    // Only a single word can be longer.
    out.chars().take(REASON_LENGTH_MAX).collect()
}

fn without_numbers(word: &str) -> String {
    let code = word.strip_prefix(CODE_PREFIX).map_or(0, |rest| {
        let digits = rest.find(|it: char| !it.is_ascii_digit()).unwrap_or(rest.len());
        CODE_PREFIX.len() + digits
    });
    let (code, rest) = word.split_at(code);
    let mut out = code.to_owned();
    for character in rest.chars() {
        match character {
            digit if digit.is_ascii_digit() && out.ends_with('#') => {}
            digit if digit.is_ascii_digit() => out.push('#'),
            other => out.push(other),
        }
    }
    out
}

/// `{"code":0, … "opaque":NUMBER …`: only a key can be followed by an unescaped quote and a colon.
fn plain_json(header: &[u8]) -> Option<i32> {
    const OPAQUE: &[u8] = b"\"opaque\":";
    let fields = header.strip_prefix(b"{\"code\":0,")?;
    let digits = &fields[memchr::memmem::find(fields, OPAQUE)? + OPAQUE.len()..];
    let count = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
}

/// Code, language, version, number, flag (remoting reference, 1.4). The flag's lowest bit marks a
/// reply.
fn plain_binary(header: &[u8]) -> Option<i32> {
    let (code, rest) = I16::ref_from_prefix(header).ok()?;
    let (number, rest) = I32::ref_from_prefix(rest.get(3..)?).ok()?;
    let (flag, _) = I32::ref_from_prefix(rest).ok()?;
    (code.get() == 0 && flag.get() & 1 == 1).then_some(number.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(header: &str) -> Option<(i32, Outcome)> {
        let header = header.as_bytes();
        let answer = read(&FrameView { encoding: HeaderEncoding::Json, header, body: b"" });
        answer.unwrap().map(|answer| (answer.number, answer.outcome))
    }

    #[test]
    fn reasons_are_the_same_for_many_answers() {
        for (remark, wanted) in [
            ("[TIMEOUT_CLEAN_QUEUE]broker busy, 212ms", "[TIMEOUT_CLEAN_QUEUE]"),
            ("waited 212 ms in queue 7", "waited # ms in queue #"),
            (
                "RINGMQ-2009 shard 12 is a follower here; refresh the route and send to the leader",
                "RINGMQ-2009 shard # is a follower here; refresh the route and send to the leader",
            ),
            ("RINGMQ-2001: wait_ms=200", "RINGMQ-2001: wait_ms=#"),
            ("two\nlines", "two lines"),
            ("", ""),
        ] {
            assert_eq!(reason(remark), wanted);
        }
    }

    #[test]
    fn a_long_reason_ends_with_a_whole_word() {
        let long = reason(&"sixteen letters ".repeat(99));
        assert!(long.ends_with(" sixteen ...") || long.ends_with(" letters ..."), "{long}");
        assert!((190..=204).contains(&long.len()), "{}", long.len());
        assert_eq!(reason(&"x".repeat(999)).len(), REASON_LENGTH_MAX);
    }

    #[test]
    fn answers_of_stock_brokers() {
        let rest = r#""flag":1,"language":"JAVA","opaque":1000000042,"serializeTypeCurrentRPC":"JSON","version":479}"#;
        let ext = r#""extFields":{"queueId":"0","TRACE_ON":"true","MSG_REGION":"DefaultRegion","msgId":"7F00","queueOffset":"7"},"#;
        for (code, outcome) in [
            (0, Outcome::Acknowledged),
            (2, Outcome::Refused(2)),
            (10, Outcome::Unknown(10)),
            (1, Outcome::Unknown(1)),
            (14, Outcome::Refused(14)),
        ] {
            let header = format!("{{\"code\":{code},{ext}{rest}");
            assert_eq!(json(&header), Some((1_000_000_042, outcome)), "{header}");
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        for (remark, wanted) in [
            ("RINGMQ-2001 reason=append_queue wait_ms=200 retry_after_ms=50 shard=0", Some(50)),
            ("retry_after_ms=soon", None),
            ("[SYSTEM_BUSY]", None),
        ] {
            let header = format!(
                "{{\"code\":2,\"flag\":1,\"language\":\"JAVA\",\"opaque\":7,\"remark\":\"{remark}\",\
                 \"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}}"
            );
            let header = header.as_bytes();
            let frame = FrameView { encoding: HeaderEncoding::Json, header, body: b"" };
            assert_eq!(read(&frame).unwrap().unwrap().retry_after_ms, wanted, "{remark}");
        }
    }

    #[test]
    fn a_binary_answer() {
        let header = b"\0\0\0\x01\xdf\x3b\x9a\xca\x07\0\0\0\x01\0\0\0\0\0\0\0\0";
        let frame = FrameView { encoding: HeaderEncoding::Binary, header, body: b"" };
        let answer = read(&frame).unwrap().unwrap();
        assert_eq!((answer.number, answer.outcome), (1_000_000_007, Outcome::Acknowledged));
    }
}
