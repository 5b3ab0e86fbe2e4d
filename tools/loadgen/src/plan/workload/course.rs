//! The course of a run: its phases, the backlog that it starts with, and its faults.

use std::time::Duration;

use crate::plan::scenario::{Fault, FaultKind, Group, Heard, Pause, Phase};
use crate::plan::workload::fields::Fields;
use crate::plan::workload::stream::{Load, StreamSpec};
use crate::plan::workload::tree::Node;
use crate::plan::workload::tree::Wrong;
use crate::plan::workload::values::{
    LENGTH_MAX, boolean, choice, duration, moment, number, parsed, part, text,
};
use crate::units::parse_size;

const GIB: f64 = (1u64 << 30) as f64;
const PHASE_FIELDS: &[&str] = &["name", "duration", "counts", "proves"];
const FAULT_FIELDS: &[&str] =
    &["at", "kind", "duration", "index", "to", "writesPerSecond", "bytesPerSecond", "heard"];

pub fn phases(fields: &Fields<'_>) -> Result<Vec<Phase>, Wrong> {
    let items = fields.list("phases")?;
    if items.is_empty() {
        return test_phases(fields);
    }
    let lengths =
        ["testDurationMinutes", "testDuration", "warmupDurationMinutes", "warmupDuration"];
    if let Some(name) = lengths.into_iter().find(|name| fields.has(name)) {
        let text = format!("`{name}` and `phases` cannot both say how long the run is");
        return Err(Wrong::new(fields.line_of(name), text));
    }
    let mut phases = Vec::new();
    for item in items {
        let fields = Fields::of(item, "a phase", &[PHASE_FIELDS], None)?;
        let name = fields.required("name", text)?;
        let length = fields.required("duration", duration)?;
        let mut phase = follow(&phases, &name, length);
        phase.counts = fields.or("counts", true, boolean)?;
        phase.proves = fields.or("proves", String::new(), text)?;
        phases.push(phase);
    }
    Ok(phases)
}

/// A warm-up, one minute by default, and the test.
fn test_phases(fields: &Fields<'_>) -> Result<Vec<Phase>, Wrong> {
    const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;
    let length = |text_name: &'static str, minutes_name: &'static str| {
        if fields.has(text_name) && fields.has(minutes_name) {
            let text = format!("`{text_name}` and `{minutes_name}` say the same thing");
            return Err(Wrong::new(fields.line_of(text_name), text));
        }
        let minutes = fields.optional(minutes_name, number(0.0..=MINUTES_MAX))?;
        let minutes = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let moment = |node: &Node| moment(node).map(Duration::from_nanos);
        Ok(fields.optional(text_name, moment)?.or(minutes))
    };
    let test = length("testDuration", "testDurationMinutes")?
        .ok_or_else(|| Wrong::new(fields.line, "`testDurationMinutes` is missing"))?;
    if test.is_zero() {
        let line = fields.line_of("testDurationMinutes");
        return Err(Wrong::new(line, "a test takes some time"));
    }
    let warm_up = length("warmupDuration", "warmupDurationMinutes")?;
    let warm_up = warm_up.unwrap_or(Duration::from_secs(60));
    let mut phases = Vec::new();
    if !warm_up.is_zero() {
        let warm_up = follow(&phases, "warm-up", warm_up);
        phases.push(Phase { counts: false, proves: "fills caches".to_owned(), ..warm_up });
    }
    phases.push(follow(&phases, "test", test));
    Ok(phases)
}

/// A phase that follows `phases`.
fn follow(phases: &[Phase], name: &str, length: Duration) -> Phase {
    let start_ns = phases.last().map_or(0, |phase| phase.end_ns);
    Phase {
        name: name.to_owned(),
        start_ns,
        end_ns: start_ns + length.as_nanos() as u64,
        counts: true,
        proves: String::new(),
    }
}

/// Pauses the consumers before the test until a backlog of the given size is due.
pub fn backlog(
    fields: &Fields<'_>,
    streams: &[StreamSpec],
    groups: &mut [Group],
    phases: &mut Vec<Phase>,
    notes: &mut Vec<String>,
) -> Result<bool, Wrong> {
    let size_gb = fields.or("consumerBacklogSizeGB", 0.0, number(0.0..=1e6))?;
    let ratio = fields.optional("backlogDrainRatio", number(0.0..=1.0))?;
    if ratio.is_some_and(|ratio| ratio < 1.0) {
        notes.push(
            "backlogDrainRatio: the test does not end early, however much is drained".to_owned(),
        );
    }
    if size_gb <= 0.0 {
        return Ok(false);
    }
    let wrong = |text: &str| Wrong::new(fields.line_of("consumerBacklogSizeGB"), text);
    let [StreamSpec { load: Load::Constant(rate), sizes, .. }] = streams else {
        return Err(wrong(
            "a backlog needs one stream with a constant producerRate below 10,000,000",
        ));
    };
    let (Some(test), false) = (phases.pop(), fields.has("phases")) else {
        return Err(wrong("a backlog is a phase of its own and needs no `phases`"));
    };
    let bytes_per_s = rate * sizes.mean() * groups.len() as f64;
    let seconds = size_gb * GIB / bytes_per_s;
    if groups.is_empty() || seconds > LENGTH_MAX.as_secs_f64() {
        return Err(wrong("at this rate the backlog is not there within a week"));
    }
    let filling = follow(phases, "backlog", Duration::from_secs_f64(seconds));
    let (from_ns, to_ns) = (filling.start_ns, filling.end_ns);
    let pause = Pause { from_ns, to_ns, is_down: false };
    groups.iter_mut().for_each(|group| group.pauses = vec![pause.clone()]);
    let length = Duration::from_nanos(test.end_ns - test.start_ns);
    phases.push(Phase { proves: "nobody consumes".to_owned(), ..filling });
    phases.push(Phase {
        proves: "the backlog is drained while messages go on coming".to_owned(),
        ..follow(phases, "test", length)
    });
    notes.push("consumerBacklogSizeGB: consumers wait until so much is due by schedule".to_owned());
    Ok(true)
}

pub fn faults(fields: &Fields<'_>, end_ns: u64) -> Result<Vec<Fault>, Wrong> {
    let mut faults = Vec::new();
    for item in fields.list("faults")? {
        let fields = Fields::of(item, "a fault", &[FAULT_FIELDS], None)?;
        let fault = Fault { at_ns: fields.required("at", moment)?, kind: fault_kind(&fields)? };
        if fault.at_ns >= end_ns {
            return Err(Wrong::new(fields.line_of("at"), "at: the run is over by then"));
        }
        faults.push(fault);
    }
    faults.sort_by_key(|fault| fault.at_ns);
    Ok(faults)
}

/// What the machine and the others hear of each other during a partition.
const HEARD: [(&str, Heard); 3] =
    [("nothing", Heard::Nothing), ("others", Heard::Others), ("itself", Heard::Itself)];

/// Each kind has its own fields; those of another kind are an error.
fn fault_kind(fields: &Fields<'_>) -> Result<FaultKind, Wrong> {
    const KINDS: [(&str, (&str, &[&str])); 8] = [
        ("killBroker", ("killBroker", &["duration"])),
        ("killNameServer", ("killNameServer", &["duration", "index"])),
        ("freezeBroker", ("freezeBroker", &["duration"])),
        ("fillDisk", ("fillDisk", &["duration", "to"])),
        ("killMachine", ("killMachine", &["duration"])),
        ("pauseMachine", ("pauseMachine", &["duration"])),
        ("partition", ("partition", &["duration", "heard"])),
        ("slowDisk", ("slowDisk", &["duration", "writesPerSecond", "bytesPerSecond"])),
    ];
    let (kind, allowed) = fields.required("kind", choice(&KINDS))?;
    let others = &FAULT_FIELDS[2..];
    if let Some(name) = others.iter().find(|name| fields.has(name) && !allowed.contains(name)) {
        let text = format!("{kind} has no `{name}`, only {}", allowed.join(", "));
        return Err(Wrong::new(fields.line_of(name), text));
    }
    let length = || fields.required("duration", duration);
    Ok(match kind {
        "killBroker" => FaultKind::KillBroker { down: length()? },
        "killNameServer" => FaultKind::KillNameServer {
            index: fields.or("index", 0, number(0..=8))?,
            down: fields.optional("duration", duration)?,
        },
        "freezeBroker" => FaultKind::FreezeBroker { length: length()? },
        "killMachine" => FaultKind::KillMachine { down: length()? },
        "pauseMachine" => FaultKind::PauseMachine { length: length()? },
        "partition" => FaultKind::Partition {
            heard: fields.or("heard", Heard::Nothing, choice(&HEARD))?,
            length: length()?,
        },
        "fillDisk" => FaultKind::FillDisk { to: fields.or("to", 0.95, part)?, length: length()? },
        _ => FaultKind::SlowDisk {
            writes_per_s: fields.or("writesPerSecond", 20, number(1..=1_000_000))?,
            bytes_per_s: fields.or("bytesPerSecond", 8 << 20, parsed(parse_size))? as u64,
            length: length()?,
        },
    })
}
