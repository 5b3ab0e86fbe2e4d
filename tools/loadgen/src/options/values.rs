//! Values of options, as people write them.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringmq::model::TopicName;
use serde::{Deserialize, Serialize};

use crate::engine::payload::MESSAGE_SIZE_MIN;
use crate::plan::fault::{Fault, FaultKind, Heard};
use crate::plan::schedule::Arrivals;
use crate::units::{self, Rate};

/// One of several processes that make up a run. Text counts parts from 1, `index` from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub index: u32,
    pub count: u32,
}

impl Part {
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// In the form of the option.
impl Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

pub fn parse_part(text: &str) -> Result<Part, String> {
    let wrong = || "a part is I/N with I from 1 to N".to_owned();
    let (number, count) = text.split_once('/').ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let count: u32 = count.parse().map_err(|_| wrong())?;
    if (1..=count).contains(&number) { Ok(Part { index: number - 1, count }) } else { Err(wrong()) }
}

/// `kill-machine@20s+5s`.
pub fn parse_fault(text: &str) -> Result<Fault, String> {
    let form = || "a fault is KIND@TIME+LENGTH, such as kill-machine@20s+5s".to_owned();
    let (kind, times) = text.split_once('@').ok_or_else(form)?;
    let (at, length) = times.split_once('+').ok_or_else(form)?;
    let at = parse_warm_up(at)?;
    let length = units::parse_duration(length)?;
    let partition = |heard| FaultKind::Partition { heard, length };
    let kind = match kind {
        "kill-machine" => FaultKind::KillMachine { down: length },
        "pause-machine" => FaultKind::PauseMachine { length },
        "partition" => partition(Heard::Nothing),
        "partition-out" => partition(Heard::Others),
        "partition-in" => partition(Heard::Itself),
        _ => {
            return Err(format!(
                "{kind} is none of kill-machine, pause-machine, partition, partition-out, partition-in"
            ));
        }
    };
    Ok(Fault { at_ns: at.as_nanos() as u64, kind })
}

pub fn parse_topic(text: &str) -> Result<TopicName, String> {
    TopicName::new(text).map_err(|error| error.to_string())
}

pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max { instead_of: None });
    }
    units::parse_rate(text).map(Rate::of)
}

/// A rate, where `max` would have no meaning.
pub fn parse_rate_per_s(text: &str) -> Result<f64, String> {
    units::parse_rate(text).map_err(|_| "a rate is a positive number, `50k` or `1.5M`".to_owned())
}

/// A duration, or zero.
pub fn parse_warm_up(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => units::parse_duration(text),
    }
}

/// One message must fit a frame; whether a batch does is checked when the target is known.
pub fn parse_message_size(text: &str) -> Result<usize, String> {
    let size = units::parse_size(text)?;
    let legal = MESSAGE_SIZE_MIN..=ringmq::model::record::BODY_SIZE_MAX;
    if legal.contains(&size) {
        return Ok(size);
    }
    Err(format!("a message has {} to {} bytes", legal.start(), legal.end()))
}

pub fn parse_arrivals(text: &str) -> Result<Arrivals, String> {
    let wrong = || "arrivals are `poisson`, `uniform` or `burst:K`".to_owned();
    match text {
        "poisson" => Ok(Arrivals::Poisson),
        "uniform" => Ok(Arrivals::Uniform),
        _ => {
            let size = text.strip_prefix("burst:").ok_or_else(wrong)?;
            let size = size.parse().ok().filter(|&size| size > 0).ok_or_else(wrong)?;
            Ok(Arrivals::Burst(size))
        }
    }
}

/// A time: RFC 3339 in UTC, or seconds since 1970.
pub fn parse_start(text: &str) -> Result<SystemTime, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        return time.ok_or_else(|| "this time is too far away".to_owned());
    }
    humantime::parse_rfc3339(text)
        .map_err(|_| "a time is `2026-11-10T16:00:00Z` or seconds since 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_nobody_can_send_means_as_fast_as_possible() {
        let asked =
            [("max", None), ("10000000", Some(1e7)), ("10M", Some(1e7)), ("1000M", Some(1e9))];
        for (text, instead_of) in asked {
            assert_eq!(parse_rate(text), Ok(Rate::Max { instead_of }), "{text}");
        }
        assert_eq!(parse_rate("9.9M"), Ok(Rate::PerSecond(9_900_000.0)));
    }

    #[test]
    fn parts_count_from_one() {
        assert_eq!(parse_part("2/3"), Ok(Part { index: 1, count: 3 }));
        assert_eq!(parse_part("1/1"), Ok(Part::WHOLE));
        for text in ["2/3", "3/3", "1/1"] {
            assert_eq!(parse_part(text).unwrap().to_string(), text);
        }
        for text in ["0/3", "4/3", "1/0", "1", "/", "a/b", "-1/2"] {
            assert!(parse_part(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_a_date_or_a_number() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(parse_start("2023-11-14T22:13:20Z"), Ok(moment));
        assert_eq!(parse_start("1700000000"), Ok(moment));
        for text in ["", "midnight", "2023-11-14", "2023-13-14T22:13:20Z", "18446744073709551615"] {
            assert!(parse_start(text).is_err(), "{text}");
        }
    }
}
