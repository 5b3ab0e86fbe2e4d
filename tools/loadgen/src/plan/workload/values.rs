//! Parses the values of workload files. Each function takes a value, and its error says what is
//! wrong with it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::keys::{KeySpace, Keys};
use crate::plan::sizes::{CLASSES_MAX, Sizes};
use crate::plan::workload::fields::did_you_mean;
use crate::plan::workload::tree::{Node, Value};
use crate::units::{self, grouped, grouped_digits};

/// Maximum length of a run.
pub const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Maximum rate, messages per second.
pub const RATE_MAX: f64 = 1e9;
/// Maximum number of keys of a stream: their weights are summed before a run.
const KEYS_MAX: u32 = 10_000_000;
/// Number of keys that OpenMessaging Benchmark uses round-robin.
const ROUND_ROBIN_KEYS: u32 = 10_000;

pub fn text(node: &Node) -> Result<String, String> {
    scalar(node, "a text").map(str::to_owned)
}

/// A name, for files and topics.
pub fn word(node: &Node) -> Result<String, String> {
    const LENGTH_MAX: usize = 40;
    let text = scalar(node, "a word")?;
    let is_word = text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    if is_word && (1..=LENGTH_MAX).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        let wanted = format!("a word of 1 to {LENGTH_MAX} letters, digits and `-`");
        Err(format!("{wanted} is wanted, not {}", node.describe()))
    }
}

pub fn boolean(node: &Node) -> Result<bool, String> {
    match scalar(node, "true or false")? {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("true or false is wanted, not {}", node.describe())),
    }
}

/// A number within `range`.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&Node) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |node| {
        let [from, to] = [range.start(), range.end()].map(|it| grouped_digits(&it.to_string()));
        let wanted = format!("a number from {from} to {to}");
        let number = scalar(node, &wanted)?.parse::<T>().ok();
        let legal = number.filter(|number| range.contains(number));
        legal.ok_or_else(|| format!("{wanted} is wanted, not {}", node.describe()))
    }
}

/// One of `choices`.
pub fn choice<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&Node) -> Result<T, String> {
    move |node| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = scalar(node, &names.join(", "))?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        found.ok_or_else(|| {
            format!("`{text}` is not one of the choices{}", did_you_mean(text, &names))
        })
    }
}

/// Applies the parser of an option.
pub fn parsed<T>(parse: fn(&str) -> Result<T, String>) -> impl Fn(&Node) -> Result<T, String> {
    move |node| {
        let text = scalar(node, "a value")?;
        parse(text).map_err(|error| format!("{}: {error}", node.describe()))
    }
}

/// Messages per second.
pub fn rate(node: &Node) -> Result<f64, String> {
    let rate = parsed(units::parse_rate)(node)?;
    let max = grouped(RATE_MAX as u64);
    if rate <= RATE_MAX { Ok(rate) } else { Err(format!("a rate is at most {max}")) }
}

pub fn duration(node: &Node) -> Result<Duration, String> {
    let duration = parsed(units::parse_duration)(node)?;
    if duration <= LENGTH_MAX {
        Ok(duration)
    } else {
        Err("a run is at most a week long".to_owned())
    }
}

/// A time in the run, ns: a duration since its start, `0s` included.
pub fn moment(node: &Node) -> Result<u64, String> {
    match scalar(node, "a time")? {
        "0" | "0s" => Ok(0),
        _ => duration(node).map(|duration| duration.as_nanos() as u64),
    }
}

/// `95%` or `0.95`.
pub fn part(node: &Node) -> Result<f64, String> {
    let text = scalar(node, "a percentage")?;
    parse_part(text).ok_or_else(|| format!("`50%` or 0.5 is wanted, not {}", node.describe()))
}

fn parse_part(text: &str) -> Option<f64> {
    let part = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
        None => text.parse::<f64>().ok()?,
    };
    (0.0..=1.0).contains(&part).then_some(part)
}

/// OpenMessaging Benchmark's names, and our own: `uniform:N`, `zipf:EXPONENT:N`, `hot:K:PART:N`.
pub fn keys(node: &Node) -> Result<Keys, String> {
    const OMB: [(&str, Option<u32>); 3] = [
        ("NO_KEY", None),
        ("KEY_ROUND_ROBIN", Some(ROUND_ROBIN_KEYS)),
        ("RANDOM_NANO", Some(1_000_000)),
    ];
    let text = scalar(node, "how keys are chosen")?;
    if let Some(space) = key_space(text) {
        return Ok(Keys::Drawn(vec![(0, space)]));
    }
    let is_ours = text.contains(':');
    let count = choice(&OMB)(node).map_err(|error| match is_ours {
        true => {
            let max = grouped(u64::from(KEYS_MAX));
            let forms = "`uniform:1000`, `zipf:1.0:1000` or `hot:1:50%:1000`";
            format!("{forms} is wanted, of 2 to {max} keys")
        }
        false => error,
    })?;
    let drawn = |count| Keys::Drawn(vec![(0, KeySpace::Uniform { count })]);
    Ok(count.map_or(Keys::None, drawn))
}

fn key_space(text: &str) -> Option<KeySpace> {
    let count = |text: &str| text.parse().ok().filter(|count| (2..=KEYS_MAX).contains(count));
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["uniform", all] => Some(KeySpace::Uniform { count: count(all)? }),
        ["zipf", exponent, all] => {
            let exponent = exponent.parse().ok().filter(|it| (0.0..=10.0).contains(it))?;
            Some(KeySpace::Zipf { exponent, count: count(all)? })
        }
        ["hot", hot, share, all] => {
            let count = count(all)?;
            let hot = hot.parse().ok().filter(|hot| (1..count).contains(hot))?;
            Some(KeySpace::Hot { hot, share: parse_part(share)?, count })
        }
        _ => None,
    }
}

/// `shop`, one size, or a list of sizes with weights.
pub fn sizes(node: &Node, one: impl Fn(&Node) -> Result<usize, String>) -> Result<Sizes, String> {
    let items = match &node.value {
        Value::Scalar(text) if text == "shop" => return Ok(Sizes::shop()),
        Value::Scalar(_) => return one(node).map(Sizes::fixed),
        Value::List(items) => items,
        _ => return Err(format!("a list of [size, weight] is wanted, not {}", node.describe())),
    };
    if !(1..=CLASSES_MAX).contains(&items.len()) {
        return Err(format!("1 to {CLASSES_MAX} sizes are wanted, not {}", items.len()));
    }
    let weighted = |item: &Node| {
        let [size, weight] = items_of(item, "[size, weight]")?;
        let weight = number(0.0..=1e9)(weight)?;
        if weight > 0.0 { Ok((one(size)?, weight)) } else { Err("a weight is positive".to_owned()) }
    };
    Ok(Sizes::mixed(&items.iter().map(weighted).collect::<Result<Vec<_>, String>>()?))
}

/// The items of a list of known length.
pub fn items_of<'a, const COUNT: usize>(
    node: &'a Node,
    wanted: &str,
) -> Result<[&'a Node; COUNT], String> {
    let items = match &node.value {
        Value::List(items) => items.iter().collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let wrong = |_| format!("{wanted} is wanted on line {}, not {}", node.line, node.describe());
    items.try_into().map_err(wrong)
}

fn scalar<'a>(node: &'a Node, wanted: &str) -> Result<&'a str, String> {
    match &node.value {
        Value::Scalar(text) => Ok(text),
        _ => Err(format!("{wanted} is wanted, not {}", node.describe())),
    }
}
