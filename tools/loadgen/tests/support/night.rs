//! Reports made up for looking at: a night with everything that a page can show.

use loadgen::engine::audit::Audit;
use loadgen::engine::measure::{Counters, Interval, Kind, Second};
use loadgen::findings::report::{
    Answered, BrokerShare, FaultMark, Finding, GroupFacts, Report, Sample, StreamFacts, Subject,
    Track, TrackKind, Unattributed,
};
use loadgen::findings::rows::Row;
use loadgen::options::Part;
use loadgen::plan::scenario::{Pause, Phase};
use loadgen::plan::schedule::SplitMix64;
use serde_json::{Map, json};

const SECOND: u64 = 1_000_000_000;
/// Names, and begin in seconds.
const PHASES: [(&str, u64); 8] = [
    ("warm-up", 0),
    ("gathering", 6),
    ("hush", 20),
    ("step", 21),
    ("first peak", 22),
    ("decay", 30),
    ("payment wave", 45),
    ("small hours", 70),
];
const END_S: u64 = 100;
const STREAMS: [&str; 6] = ["orders", "payments", "inventory", "marketing", "timeouts", "logs"];
const GROUPS: [&str; 5] = ["fulfilment", "logistics", "analytics", "cache-1", "cache-2"];
/// When the second group is gone, in seconds.
const GONE: (u64, u64) = (45, 60);
/// When nobody answered, because the broker was killed.
const DEAD: std::ops::Range<u64> = 33..35;

/// A night of six streams, five groups, eight phases, with faults, errors and samples.
pub fn night() -> Report {
    let mut random = SplitMix64::of(11, 11);
    let tracks = STREAMS.len() + GROUPS.len();
    let mut totals = vec![vec![Interval::default(); tracks]; PHASES.len()];
    let mut seconds = Vec::new();
    let mut behind = 0;
    for number in 0..END_S + 15 {
        let intervals = intervals(number, &mut behind, &mut random);
        let phase = PHASES.iter().rposition(|(_, from)| *from <= number).unwrap_or(0);
        for (track, interval) in &intervals {
            totals[phase][*track].add(interval);
        }
        seconds.push(Second::pack(number, &intervals));
    }
    Report {
        subject: subject(),
        started_unix_ns: 1_794_326_400 * SECOND,
        sending_ns: END_S * SECOND,
        consuming_ns: (END_S + 15) * SECOND,
        phases: phases(),
        tracks: self::tracks(),
        totals,
        seconds,
        findings: findings(),
        unattributed: (6..11)
            .map(|group| Unattributed { group, ..Unattributed::default() })
            .collect(),
        answers: answers(),
        faults: faults(),
        brokers: ["broker-a", "broker-a-1"]
            .into_iter()
            .zip([812_345, 501_234])
            .map(|(name, acknowledged)| BrokerShare { name: name.to_owned(), acknowledged })
            .collect(),
        samples: samples(),
        asked: Vec::new(),
        rows: rows(),
        doubts: Vec::new(),
        notes: vec!["producers lost their connection 200 times".to_owned()],
    }
}

/// The same with a promise broken.
pub fn failed() -> Report {
    let mut report = night();
    report.findings[0].audit.lost = 17;
    report
}

/// Messages due in one second of the night, all streams.
fn rate(number: u64) -> u64 {
    match number {
        0..6 => 100 + 50 * number,
        6..20 => 400 + 60 * (number - 6),
        20 => 400,
        21 => 4_000,
        22..30 => 9_000,
        30..45 => 8_000 - 400 * (number - 30),
        45..70 => 3_500,
        70..END_S => 1_200,
        _ => 0,
    }
}

fn intervals(number: u64, behind: &mut u64, random: &mut SplitMix64) -> Vec<(usize, Interval)> {
    let due = rate(number);
    let is_dead = DEAD.contains(&number);
    let mut all = Vec::new();
    for stream in 0..STREAMS.len() {
        let due = due / (stream as u64 + 2);
        let mut interval = Interval::default();
        let (acknowledged, unknown) = if is_dead { (0, due / 9) } else { (due, 0) };
        interval.counters = Counters { due, sent: due - unknown, unknown, ..Counters::default() };
        if stream == 3 {
            interval.counters.one_way = due;
        } else {
            interval.counters.acknowledged = acknowledged;
            interval.counters.refused = if number == 24 { due / 50 } else { 0 };
            spread(&mut interval, Kind::Latency, acknowledged, 400_000 + due * 3_000, random);
            spread(&mut interval, Kind::Service, acknowledged, 300_000 + due * 1_000, random);
        }
        spread(&mut interval, Kind::Slip, due, 20_000, random);
        all.push((stream, interval));
    }
    let stored: u64 =
        all.iter().map(|(_, it)| it.counters.acknowledged + it.counters.one_way).sum();
    for group in 0..GROUPS.len() {
        let received = match group {
            1 if (GONE.0..GONE.1).contains(&number) => 0,
            1 => (*behind + stored).min(3_000),
            _ => stored,
        };
        if group == 1 {
            *behind = *behind + stored - received;
        }
        let counters = Counters { received, ..Counters::default() };
        let mut interval = Interval { counters, ..Interval::default() };
        let delay = if group == 1 { 1_000_000 + *behind * 300_000 } else { 900_000 };
        spread(&mut interval, Kind::EndToEnd, received, delay, random);
        all.push((STREAMS.len() + group, interval));
    }
    all
}

/// `count` values around `middle_ns`, the rarest of them a hundred times as large.
fn spread(
    interval: &mut Interval,
    kind: Kind,
    count: u64,
    middle_ns: u64,
    random: &mut SplitMix64,
) {
    let mut rest = count;
    let mut factor = 1.0;
    while rest > 0 {
        let some = (rest / 2).max(1);
        let jitter = 0.8 + random.fraction() * 0.6;
        interval.record(kind, (middle_ns as f64 * factor * jitter) as u64, some);
        rest -= some;
        factor *= 1.5;
    }
}

fn subject() -> Subject {
    let mut environment = Map::new();
    environment
        .insert("cpu".to_owned(), json!("Imaginary 9000 with a name long enough to wrap twice"));
    environment.insert("cores".to_owned(), json!(2));
    environment.insert("device_flush".to_owned(), json!({"p50_ns": 100_000, "p99_ns": 900_000}));
    environment
        .insert("command".to_owned(), json!("loadgen double11 break --embedded --compress 60"));
    Subject {
        name: "double11 break".to_owned(),
        load: "peak 9,000/s at T+26 s, night / 60, 200 conn x 16, json".to_owned(),
        target: "embedded 127.0.0.1:9876: 2 brokers, 6 topics, 96 queues".to_owned(),
        seed: 1,
        part: Part::WHOLE,
        schedule: "5eed".to_owned(),
        environment,
        assumptions: vec!["assumed: all rates and times of the night".to_owned(); 3],
    }
}

fn phases() -> Vec<Phase> {
    let ends = PHASES[1..].iter().map(|(_, from)| *from).chain([END_S]);
    let phase = |(&(name, from), to): (&(&str, u64), u64)| Phase {
        name: name.to_owned(),
        start_ns: from * SECOND,
        end_ns: to * SECOND,
        counts: from > 0,
        proves: "what this stretch of the night is there to prove".to_owned(),
    };
    PHASES.iter().zip(ends).map(phase).collect()
}

fn tracks() -> Vec<Track> {
    let stream = |(index, name): (usize, &&str)| Track {
        name: (*name).to_owned(),
        role: "what the shop sends, in a sentence of usual length".to_owned(),
        kind: TrackKind::Stream(StreamFacts {
            topics: vec![format!("double11-{name}")],
            header: "json".to_owned(),
            message_size_mean: 3_652.0,
            batch: if *name == "logs" { 32 } else { 1 },
            connections: 40,
            in_flight: 16,
            is_ordered: index == 0,
            is_one_way: index == 3,
            stands_in_for: (index == 1).then(|| "half-message transactions".to_owned()),
        }),
    };
    let group = |(index, name): (usize, &&str)| Track {
        name: (*name).to_owned(),
        role: "who takes it, in a sentence of usual length".to_owned(),
        kind: TrackKind::Group(GroupFacts {
            streams: (0..STREAMS.len()).collect(),
            rate: (index < 2).then_some(if index == 0 { 12_000.0 } else { 3_000.0 }),
            pauses: if index == 1 {
                vec![Pause { from_ns: GONE.0 * SECOND, to_ns: GONE.1 * SECOND, is_down: true }]
            } else {
                Vec::new()
            },
        }),
    };
    let streams = STREAMS.iter().enumerate().map(stream);
    streams.chain(GROUPS.iter().enumerate().map(group)).collect()
}

fn findings() -> Vec<Finding> {
    let finding = |(group, stream)| Finding {
        group,
        stream,
        audit: Audit {
            acknowledged: 123_456,
            unknown_present: 5,
            unknown_absent: 7,
            ..Audit::default()
        },
    };
    (6..11).flat_map(|group| (0..6).map(move |stream| (group, stream))).map(finding).collect()
}

fn answers() -> Vec<Answered> {
    let answered = |stream, code, reason: &str, requests| Answered {
        stream,
        code,
        reason: reason.to_owned(),
        requests,
    };
    vec![
        answered(0, 2, "[TIMEOUT_CLEAN_QUEUE]", 1_234),
        answered(2, 14, "RINGMQ-# disk full: writes are refused until there is room again", 88),
    ]
}

fn faults() -> Vec<FaultMark> {
    let mark = |at_s: u64, until_s: Option<u64>, text: &str| FaultMark {
        at_ns: at_s * SECOND,
        until_ns: until_s.map(|second| second * SECOND),
        text: text.to_owned(),
        failed: None,
        back_after_ns: None,
    };
    vec![
        mark(19, None, "kill -9 of NameServer 0, for good"),
        FaultMark {
            back_after_ns: Some(2_210_000_000),
            ..mark(33, Some(35), "kill -9 of the broker, down 1 s")
        },
        mark(38, Some(39), "SIGSTOP of the broker for 1 s"),
        mark(43, Some(46), "disk slowed to 20 writes/s and 8,388,608 B/s for 3 s"),
        FaultMark {
            failed: Some("no file system of its own: use --disk-image".to_owned()),
            ..mark(50, None, "disk filled to 95 % for 1 s")
        },
    ]
}

fn samples() -> Vec<Sample> {
    let sample = |second: u64| Sample {
        at_ns: second * SECOND,
        cpu_ns: second * 700_000_000,
        rss_bytes: (190 << 20) + second * 100_000,
        written_bytes: second * 12_000_000,
        read_bytes: second * 3_000_000,
    };
    (0..END_S).map(sample).collect()
}

fn rows() -> Vec<Row> {
    let row = |what: &str, wanted: &str, found: &str, is_met| Row {
        what: what.to_owned(),
        wanted: wanted.to_owned(),
        found: found.to_owned(),
        is_met,
    };
    vec![
        row("nothing lost", "0 lost, in order", "0 of 1,313,579", Some(true)),
        row("acks in small hours", "99.99 % < 10 ms", "98.759 % of 10,717", Some(false)),
        row("logistics catches up", "2 x production", "it never fell behind", None),
    ]
}
