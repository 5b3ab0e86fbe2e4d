//! A threshold for one figure of a run, such as `p99>20ms`. It is written as the condition for
//! failure.

use std::fmt::{self, Display};

use ringmq::config::Span;
use serde::{Deserialize, Serialize};

use crate::units::{grouped, parse_rate};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    pub figure: Figure,
    /// The figure must not exceed the limit; otherwise it must not be below the limit.
    pub is_maximum: bool,
    /// Nanoseconds, messages per second, or a share of the messages due.
    pub limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Figure {
    /// A quantile of the time from due to acknowledged.
    Latency(f64),
    /// A quantile of the time from due to consumed.
    EndToEnd(f64),
    /// Messages acknowledged per second.
    Rate,
    /// Shares of the messages due.
    Refused,
    NotSent,
    Unanswered,
}

const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
const OTHERS: [(&str, Figure); 4] = [
    ("rate", Figure::Rate),
    ("refused", Figure::Refused),
    ("not-sent", Figure::NotSent),
    ("unanswered", Figure::Unanswered),
];
/// Prefix of end-to-end quantiles.
const END_TO_END: &str = "e2e-";

impl Threshold {
    /// `p99>20ms`, `e2e-p99.9>1s`, `rate<50k`, `refused>1%`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = text.find(['>', '<']).ok_or("a threshold is FIGURE>LIMIT or FIGURE<LIMIT")?;
        let figure = Figure::parse(text[..at].trim())?;
        let limit = text[at + 1..].trim();
        let limit = match figure {
            Figure::Latency(_) | Figure::EndToEnd(_) => limit.parse::<Span>()?.0.as_nanos() as f64,
            Figure::Rate => parse_rate(limit)?,
            Figure::Refused | Figure::NotSent | Figure::Unanswered => {
                let percent = limit.strip_suffix('%').and_then(|it| it.trim().parse::<f64>().ok());
                let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
                percent.ok_or_else(|| format!("`{limit}` is not a share such as 1%"))? / 100.0
            }
        };
        Ok(Self { figure, is_maximum: text.as_bytes()[at] == b'>', limit })
    }

    /// The condition to be met.
    pub fn wanted(&self) -> String {
        let sign = if self.is_maximum { "<=" } else { ">=" };
        format!("{sign} {}", self.figure.shown(self.limit))
    }

    pub fn is_kept(&self, value: f64) -> bool {
        if self.is_maximum { value <= self.limit } else { value >= self.limit }
    }
}

impl Figure {
    fn parse(name: &str) -> Result<Self, String> {
        let of = |name: &str| QUANTILES.iter().find(|(known, _)| *known == name).map(|it| it.1);
        let end_to_end = || name.strip_prefix(END_TO_END).and_then(of).map(Self::EndToEnd);
        let other = || OTHERS.iter().find(|(known, _)| *known == name).map(|it| it.1);
        of(name).map(Self::Latency).or_else(end_to_end).or_else(other).ok_or_else(|| {
            let names = QUANTILES.iter().map(|it| it.0).chain(OTHERS.iter().map(|it| it.0));
            let names: Vec<&str> = names.collect();
            format!("there is no figure `{name}`, but {}, and {END_TO_END}p99", names.join(", "))
        })
    }

    /// Formats a value of the figure, with its unit.
    pub fn shown(&self, value: f64) -> String {
        match self {
            Self::Latency(_) | Self::EndToEnd(_) if value < 1e9 => format!("{} ms", value / 1e6),
            Self::Latency(_) | Self::EndToEnd(_) => format!("{} s", value / 1e9),
            Self::Rate => format!("{}/s", grouped(value as u64)),
            Self::Refused | Self::NotSent | Self::Unanswered => format!("{} %", value * 100.0),
        }
    }

    pub fn is_latency(&self) -> bool {
        matches!(self, Self::Latency(_) | Self::EndToEnd(_))
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |quantile: f64| {
            QUANTILES.iter().find(|(_, known)| *known == quantile).map_or("p?", |(name, _)| *name)
        };
        match *self {
            Self::Latency(quantile) => f.write_str(of(quantile)),
            Self::EndToEnd(quantile) => write!(f, "{END_TO_END}{}", of(quantile)),
            other => {
                let name = OTHERS.iter().find(|(_, known)| *known == other).map_or("?", |it| it.0);
                f.write_str(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_as_people_write_them() {
        for (text, figure, wanted) in [
            ("p99>20ms", "p99", "<= 20 ms"),
            ("p99.9 > 1500us", "p99.9", "<= 1.5 ms"),
            ("e2e-max>2s", "e2e-max", "<= 2 s"),
            ("rate<50k", "rate", ">= 50,000/s"),
            ("not-sent>0.1%", "not-sent", "<= 0.1 %"),
        ] {
            let threshold = Threshold::parse(text).unwrap();
            assert_eq!(
                (threshold.figure.to_string().as_str(), threshold.wanted().as_str()),
                (figure, wanted)
            );
            let at_limit = threshold.limit;
            assert!(threshold.is_kept(at_limit), "{text}");
            let beyond = if threshold.is_maximum { 1.01 } else { 0.99 };
            assert!(!threshold.is_kept(at_limit * beyond), "{text}");
        }
        for text in
            ["", "p99", "p99=20ms", "p98>1ms", "p99>20", "rate<fast", "refused>2", "refused>200%"]
        {
            assert!(Threshold::parse(text).is_err(), "{text}");
        }
    }
}
