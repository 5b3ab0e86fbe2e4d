//! Converts the fields of a file into a validated workload. No check needs a target.

use std::collections::HashSet;

use crate::engine::payload::MESSAGE_SIZE_MIN;
use crate::options::Header;
use crate::options::values::{parse_arrivals, parse_topic};
use crate::plan::keys::Keys;
use crate::plan::scenario::{Fault, Group, IN_FLIGHT_MAX, MEMBERS_MAX, Pause, Phase, TRACKS_MAX};
use crate::plan::schedule::Arrivals;
use crate::plan::sizes::Sizes;
use crate::plan::threshold::Threshold;
use crate::plan::workload::course::{backlog, faults, phases};
use crate::plan::workload::fields::{Fields, did_you_mean};
use crate::plan::workload::stream::{Load, StreamSpec};
use crate::plan::workload::tree::{Node, Value, Wrong};
use crate::plan::workload::values::{
    LENGTH_MAX, RATE_MAX, boolean, choice, items_of, keys, moment, number, parsed, rate, sizes,
    text, word,
};
use crate::units::{Rate, grouped, max_rate_note, parse_size, scheduled};

/// Fields of a stream. At the top level of a file, they describe the only stream, or are defaults
/// for all.
pub const STREAM_FIELDS: &[&str] = &[
    "topics",
    "partitionsPerTopic",
    "keyDistributor",
    "messageSize",
    "useRandomizedPayloads",
    "randomBytesRatio",
    "randomizedPayloadPoolSize",
    "payloadFile",
    "producersPerTopic",
    "producerRate",
    "producerRateList",
    "curve",
    "batch",
    "header",
    "inFlight",
    "retries",
    "ordered",
    "oneWay",
    "delay",
];
const NAME_FIELDS: &[&str] = &["name", "role", "topic"];
pub const RUN_FIELDS: &[&str] = &[
    "name",
    "topic",
    "subscriptionsPerTopic",
    "consumerPerSubscription",
    "consumerBacklogSizeGB",
    "backlogDrainRatio",
    "testDurationMinutes",
    "warmupDurationMinutes",
    "testDuration",
    "warmupDuration",
    "seed",
    "arrivals",
    "streams",
    "groups",
    "phases",
    "faults",
    "failIf",
];
const GROUP_FIELDS: &[&str] = &["name", "role", "streams", "rate", "pauses", "consumers"];
const PAUSE_FIELDS: &[&str] = &["from", "to", "down"];

/// Maximum number of topics, and of producers, of all streams together.
const TOPICS_MAX: u32 = 10_000;
const CONNECTIONS_MAX: u32 = 50_000;

/// The content of a file.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub phases: Vec<Phase>,
    pub streams: Vec<StreamSpec>,
    pub groups: Vec<Group>,
    pub faults: Vec<Fault>,
    pub seed: u64,
    pub arrivals: Arrivals,
    pub fail_if: Vec<Threshold>,
    /// Consumers pause at first, and the figures are those of the drain.
    pub has_backlog: bool,
    /// Fields that are accepted but have no effect, or a different one.
    pub notes: Vec<String>,
}

pub fn spec(root: &Node) -> Result<Spec, Wrong> {
    let fields = Fields::of(root, "a workload", &[RUN_FIELDS, STREAM_FIELDS], None)?;
    read(&fields)
}

pub fn read(fields: &Fields<'_>) -> Result<Spec, Wrong> {
    let mut notes = Vec::new();
    let streams = streams(fields, &mut notes)?;
    let mut groups = groups(fields, &streams, &mut notes)?;
    let mut phases = phases(fields)?;
    let has_backlog = backlog(fields, &streams, &mut groups, &mut phases, &mut notes)?;
    let end_ns = phases.last().map_or(0, |phase| phase.end_ns);
    if end_ns > LENGTH_MAX.as_nanos() as u64 {
        return Err(Wrong::new(fields.line, "all phases together are longer than a week"));
    }
    check_sizes(fields, &streams, &groups)?;
    Ok(Spec {
        name: fields.or("name", "workload".to_owned(), text)?,
        faults: faults(fields, end_ns)?,
        seed: fields.or("seed", 1, number(0..=u64::MAX))?,
        arrivals: fields.or("arrivals", Arrivals::Poisson, parsed(parse_arrivals))?,
        fail_if: fail_if(fields)?,
        phases,
        streams,
        groups,
        has_backlog,
        notes,
    })
}

fn fail_if(fields: &Fields<'_>) -> Result<Vec<Threshold>, Wrong> {
    let threshold = |item: &Node| {
        let wrong = |text| Wrong::new(item.line, format!("failIf: {text}"));
        parsed(Threshold::parse)(item).map_err(wrong)
    };
    fields.list("failIf")?.iter().map(threshold).collect()
}

fn check_sizes(fields: &Fields<'_>, streams: &[StreamSpec], groups: &[Group]) -> Result<(), Wrong> {
    let sum = |of: fn(&StreamSpec) -> u32| streams.iter().map(|it| u64::from(of(it))).sum::<u64>();
    let rows = [
        ("streams and groups", (streams.len() + groups.len()) as u64, TRACKS_MAX as u64),
        ("topics", sum(|stream| stream.topics), u64::from(TOPICS_MAX)),
        ("producers", sum(|stream| stream.producers), u64::from(CONNECTIONS_MAX)),
    ];
    match rows.iter().find(|(_, count, count_max)| count > count_max) {
        None => Ok(()),
        Some((what, count, count_max)) => {
            let text = format!("{} {what} are more than {}", grouped(*count), grouped(*count_max));
            Err(Wrong::new(fields.line, text))
        }
    }
}

fn streams(fields: &Fields<'_>, notes: &mut Vec<String>) -> Result<Vec<StreamSpec>, Wrong> {
    let items = fields.list("streams")?;
    if items.is_empty() {
        let name = ("load".to_owned(), "messages of one kind".to_owned());
        return Ok(vec![stream(fields, name, true, notes)?]);
    }
    if fields.has("topic") {
        let text = "each of several streams has a `topic` of its own";
        return Err(Wrong::new(fields.line_of("topic"), text));
    }
    let mut streams: Vec<StreamSpec> = Vec::new();
    for item in items {
        let defaults = Some((fields, STREAM_FIELDS));
        let fields = Fields::of(item, "a stream", &[NAME_FIELDS, STREAM_FIELDS], defaults)?;
        let name: String = fields.required("name", word)?;
        if streams.iter().any(|stream| stream.name == name) {
            let text = format!("there is a stream `{name}` already");
            return Err(Wrong::new(fields.line_of("name"), text));
        }
        let role = fields.or("role", "messages of one kind".to_owned(), text)?;
        let stream = stream(&fields, (name, role), false, notes)?;
        if let Some((topic, other)) = shared_topic(&stream, &streams) {
            let text = format!(
                "topic `{topic}` is that of another stream, `{other}`: name another `topic`"
            );
            return Err(Wrong::new(fields.line_of("topic"), text));
        }
        streams.push(stream);
    }
    // Several streams may cause the same note.
    notes.sort();
    notes.dedup();
    Ok(streams)
}

/// A topic that `stream` shares with one of `others`, and the name of that stream. Equal prefixes
/// are refused even if one of the streams has a single topic without a number.
fn shared_topic<'a>(stream: &StreamSpec, others: &'a [StreamSpec]) -> Option<(String, &'a str)> {
    let own: HashSet<String> = stream.topic_names().collect();
    others.iter().find_map(|other| {
        if stream.topic == other.topic {
            return Some((stream.topic.clone(), other.name.as_str()));
        }
        let topic = other.topic_names().find(|topic| own.contains(topic))?;
        Some((topic, other.name.as_str()))
    })
}

fn stream(
    fields: &Fields<'_>,
    (name, role): (String, String),
    is_only: bool,
    notes: &mut Vec<String>,
) -> Result<StreamSpec, Wrong> {
    const HEADERS: [(&str, Header); 3] =
        [("json", Header::Json), ("binary", Header::Binary), ("fixed", Header::Fixed)];
    payload_notes(fields, notes)?;
    let topic = |node: &Node| {
        let topic = text(node)?;
        // With the longest number that may be appended.
        parse_topic(&format!("{topic}-{TOPICS_MAX}")).map(|_| topic)
    };
    let topics = fields.or("topics", 1, number(1..=TOPICS_MAX))?;
    let producers = fields.or("producersPerTopic", 1, number(1..=CONNECTIONS_MAX))?;
    let keys = fields.or("keyDistributor", Keys::None, keys)?;
    if keys != Keys::None && fields.optional("keyDistributor", text)?.is_some_and(|it| is_omb(&it))
    {
        notes.push("keyDistributor: keys are drawn evenly from a fixed number of them".to_owned());
    }
    let in_flight = fields.or("inFlight", 64, number(1..=IN_FLIGHT_MAX))?;
    let delay_ms = fields.or("delay", 0, |node| moment(node).map(|ns| ns / 1_000_000))?;
    let is_ordered = fields.or("ordered", in_flight == 1 && delay_ms == 0, boolean)?;
    if is_ordered && delay_ms > 0 {
        let text = "delay: the order of delayed messages cannot be asked for";
        return Err(Wrong::new(fields.line_of("delay"), text));
    }
    let load = load(fields, is_only, notes)?;
    if load == Load::Searched && delay_ms > 0 {
        let text = "delay: a rate is searched for only without a delay";
        return Err(Wrong::new(fields.line_of("delay"), text));
    }
    Ok(StreamSpec {
        topic: fields.or("topic", format!("loadgen-{name}"), topic)?,
        name,
        role,
        topics,
        partitions: fields.or("partitionsPerTopic", 8, number(1..=16_384))?,
        header: fields.or("header", Header::Json, choice(&HEADERS))?,
        load,
        sizes: fields.or("messageSize", Sizes::fixed(1024), |node| sizes(node, message_size))?,
        batch: fields.or("batch", 1, number(1..=10_000))?,
        producers: producers.saturating_mul(topics),
        in_flight,
        keys,
        is_ordered,
        delay_ms,
        is_one_way: fields.or("oneWay", false, boolean)?,
        retries: fields.or("retries", 0, number(0..=100))?,
    })
}

fn is_omb(keys: &str) -> bool {
    !keys.contains(':')
}

fn message_size(node: &Node) -> Result<usize, String> {
    let size = parsed(parse_size)(node)?;
    let legal = MESSAGE_SIZE_MIN..=ringmq::model::record::BODY_SIZE_MAX;
    let [from, to] = [legal.start(), legal.end()].map(|it| grouped(*it as u64));
    let wrong = || format!("a message has {from} to {to} bytes, not {}", grouped(size as u64));
    legal.contains(&size).then_some(size).ok_or_else(wrong)
}

/// The generator always makes the bodies, because they carry the stamp that the audit needs.
fn payload_notes(fields: &Fields<'_>, notes: &mut Vec<String>) -> Result<(), Wrong> {
    let is_random = fields.or("useRandomizedPayloads", false, boolean)?;
    let ratio = fields.optional("randomBytesRatio", number(0.0..=1.0))?;
    let pool = fields.optional("randomizedPayloadPoolSize", number(0..=u32::MAX))?;
    let file = fields.optional("payloadFile", text)?;
    if is_random || ratio.is_some() || pool.is_some() {
        notes.push("randomized payloads: bodies are half compressible instead".to_owned());
    }
    if let Some(file) = file {
        let size = if fields.has("messageSize") { "its size" } else { "1 KiB" };
        notes.push(format!("payloadFile {file}: made-up bodies of {size} are sent instead"));
    }
    Ok(())
}

fn load(fields: &Fields<'_>, is_only: bool, notes: &mut Vec<String>) -> Result<Load, Wrong> {
    const WAYS: [&str; 3] = ["producerRate", "producerRateList", "curve"];
    let mine: Vec<&str> = WAYS.into_iter().filter(|way| fields.has(way)).collect();
    if let [first, second, ..] = mine[..] {
        let text = format!("`{first}` and `{second}` cannot both say what is sent");
        return Err(Wrong::new(fields.line, text));
    }
    let is_way = |way| mine.is_empty() || mine[0] == way;
    if let Some(curve) = fields.optional("curve", curve)?.filter(|_| is_way("curve")) {
        return points(fields, "curve", curve, notes);
    }
    let steps = fields.optional("producerRateList", steps)?;
    if let Some(steps) = steps.filter(|_| is_way("producerRateList")) {
        notes.push(
            "producerRateList: times count from its first entry, at the beginning".to_owned(),
        );
        return points(fields, "producerRateList", steps, notes);
    }
    let read = |node: &Node| match text(node)?.as_str() {
        "max" => Ok(Load::Max { instead_of: None }),
        zero if zero.parse::<f64>() == Ok(0.0) && is_only => Ok(Load::Searched),
        zero if zero.parse::<f64>() == Ok(0.0) => {
            Err("a rate is searched for only where there are no `streams`".to_owned())
        }
        _ => rate(node).map(|rate| match Rate::of(rate) {
            Rate::PerSecond(rate) => Load::Constant(rate),
            Rate::Max { instead_of } => Load::Max { instead_of },
        }),
    };
    let load = fields.required("producerRate", read)?;
    if let Load::Max { instead_of: Some(rate) } = load {
        notes.push(max_rate_note("producerRate", rate));
    }
    Ok(load)
}

/// Rates over time. `max` for all the time is `max`; among other rates it has no meaning, because
/// what is sent then would not be fixed before.
fn points(
    fields: &Fields<'_>,
    way: &'static str,
    points: Vec<(u64, f64)>,
    notes: &mut Vec<String>,
) -> Result<Load, Wrong> {
    let highest = points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let Err(too_high) = scheduled(way, highest) else { return Ok(Load::Points(points)) };
    if points.iter().any(|(_, rate)| matches!(Rate::of(*rate), Rate::PerSecond(_))) {
        let text = format!(
            "{too_high}, which has no place among other rates: give lower ones, or `producerRate: max`"
        );
        return Err(Wrong::new(fields.line_of(way), text));
    }
    notes.push(max_rate_note(way, highest));
    Ok(Load::Max { instead_of: Some(highest) })
}

/// `[[time, rate], …]`, with linear interpolation.
fn curve(node: &Node) -> Result<Vec<(u64, f64)>, String> {
    let point = |item: &Node| {
        let [at, rate] = items_of(item, "[time, rate]")?;
        Ok((moment(at)?, number(0.0..=RATE_MAX)(rate)?))
    };
    ascending(list_of(node, "[[time, rate], ...]")?.iter().map(point).collect())
}

/// `[[hour, minute, rate], …]` of the AutoMQ fork: a rate holds until the next point.
fn steps(node: &Node) -> Result<Vec<(u64, f64)>, String> {
    const MINUTE_NS: u64 = 60_000_000_000;
    let step = |item: &Node| {
        let [hour, minute, rate] = items_of(item, "[hour, minute, rate]")?;
        let (hour, minute) = (number(0..=167u64)(hour)?, number(0..=59u64)(minute)?);
        Ok(((hour * 60 + minute) * MINUTE_NS, number(0.0..=RATE_MAX)(rate)?))
    };
    let steps =
        ascending(list_of(node, "[[hour, minute, rate], ...]")?.iter().map(step).collect())?;
    let first_ns = steps[0].0;
    let mut points = Vec::new();
    for (at_ns, rate) in steps {
        if let Some((_, before)) = points.last().copied() {
            points.push((at_ns - first_ns, before));
        }
        points.push((at_ns - first_ns, rate));
    }
    Ok(points)
}

fn list_of<'a>(node: &'a Node, wanted: &str) -> Result<&'a [Node], String> {
    match &node.value {
        Value::List(items) if !items.is_empty() => Ok(items),
        _ => Err(format!("{wanted} is wanted, not {}", node.describe())),
    }
}

fn ascending(points: Result<Vec<(u64, f64)>, String>) -> Result<Vec<(u64, f64)>, String> {
    let points = points?;
    match points.is_sorted_by_key(|(at_ns, _)| *at_ns) {
        true => Ok(points),
        false => Err("times go backwards".to_owned()),
    }
}

fn groups(
    fields: &Fields<'_>,
    streams: &[StreamSpec],
    notes: &mut Vec<String>,
) -> Result<Vec<Group>, Wrong> {
    let count = fields.or("subscriptionsPerTopic", 1, number(0..=TRACKS_MAX as u32))?;
    let members = fields.or("consumerPerSubscription", 1, number(1..=MEMBERS_MAX))?;
    let items = fields.list("groups")?;
    if items.is_empty() {
        let group = |number: u32| Group {
            name: if count == 1 { "consumer".to_owned() } else { format!("subscription-{number}") },
            role: "takes everything as it comes".to_owned(),
            streams: (0..streams.len()).collect(),
            rate: None,
            pauses: Vec::new(),
            members,
        };
        return Ok((1..=count).map(group).collect());
    }
    if fields.has("subscriptionsPerTopic") {
        let text = "`groups` and `subscriptionsPerTopic` cannot both say who consumes";
        return Err(Wrong::new(fields.line_of("groups"), text));
    }
    let mut groups: Vec<Group> = Vec::new();
    for item in items {
        let fields = Fields::of(item, "a group", &[GROUP_FIELDS], None)?;
        let group = group(&fields, streams, members, notes)?;
        if groups.iter().any(|other| other.name == group.name) {
            let text = format!("there is a group `{}` already", group.name);
            return Err(Wrong::new(fields.line_of("name"), text));
        }
        if groups.is_empty() && group.streams.len() < streams.len() {
            let text = "the first group takes every stream, or losses could not be found";
            return Err(Wrong::new(fields.line_of("streams"), text));
        }
        groups.push(group);
    }
    Ok(groups)
}

fn group(
    fields: &Fields<'_>,
    streams: &[StreamSpec],
    members: u32,
    notes: &mut Vec<String>,
) -> Result<Group, Wrong> {
    let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    let mut indexes = Vec::new();
    for item in fields.list("streams")? {
        let wrong = |text| Wrong::new(item.line, format!("streams: {text}"));
        let name = word(item).map_err(wrong)?;
        let index = names.iter().position(|known| *known == name);
        let hint = did_you_mean(&name, &names);
        let index = index.ok_or_else(|| wrong(format!("there is no stream `{name}`{hint}")))?;
        if indexes.contains(&index) {
            return Err(wrong(format!("`{name}` is given twice")));
        }
        indexes.push(index);
    }
    if indexes.is_empty() {
        indexes = (0..streams.len()).collect();
    }
    let mut pauses = Vec::new();
    for item in fields.list("pauses")? {
        let fields = Fields::of(item, "a pause", &[PAUSE_FIELDS], None)?;
        let pause = Pause {
            from_ns: fields.required("from", moment)?,
            to_ns: fields.required("to", moment)?,
            is_down: fields.or("down", false, boolean)?,
        };
        let before = pauses.last().map_or(0, |pause: &Pause| pause.to_ns);
        if pause.to_ns <= pause.from_ns || pause.from_ns < before {
            let text = "a pause ends after it begins, and begins after the one before";
            return Err(Wrong::new(fields.line, text));
        }
        pauses.push(pause);
    }
    let name: String = fields.required("name", word)?;
    let rate = match fields.optional("rate", rate)?.map(Rate::of) {
        Some(Rate::PerSecond(rate)) => Some(rate),
        Some(Rate::Max { instead_of }) => {
            let what = format!("rate of group {name}");
            notes.extend(instead_of.map(|rate| max_rate_note(&what, rate)));
            None
        }
        None => None,
    };
    Ok(Group {
        name,
        role: fields.or("role", "takes messages".to_owned(), text)?,
        streams: indexes,
        rate,
        pauses,
        members: fields.or("consumers", members, number(1..=MEMBERS_MAX))?,
    })
}
