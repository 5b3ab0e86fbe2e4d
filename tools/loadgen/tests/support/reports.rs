//! Synthetic reports for tests of everything that is made from reports: a night in a shop with all
//! features, a steady run, and one that lost messages. The same seed produces the same report.
//!
//! A night is simulated second by second: streams follow a curve, the broker is down for two
//! seconds, and groups receive their backlog at their own rates. So rates, backlogs and audits are
//! consistent, as in the report of a real run.

use std::ops::Range;

use loadgen::engine::audit::Audit;
use loadgen::engine::measure::{Counters, Interval, Kind, Second};
use loadgen::findings::report::{
    Answered, BrokerShare, FaultMark, Finding, GroupFacts, Report, Row, Sample, StreamFacts,
    Subject, ThreadCpu, Track, TrackKind, Unattributed,
};
use loadgen::options::Part;
use loadgen::plan::scenario::{Pause, Phase};
use loadgen::plan::schedule::SplitMix64;
use serde_json::{Map, Value, json};

const S: u64 = 1_000_000_000;
/// Streams of the night: name, role, messages per second in multiples of the base rate.
const STREAMS: [(&str, &str, f64); 6] = [
    ("orders", "what buyers order; the events of one order must stay in their order", 0.3),
    ("payments", "what buyers pay, a wave after the orders", 0.15),
    ("inventory", "changes of what is in stock; a few items are wanted by everyone", 0.25),
    ("marketing", "who looked at what; sent without asking for an answer", 0.15),
    ("timeouts", "orders not paid in time, which are to be cancelled", 0.05),
    ("logs", "what happened in the shop, in batches", 0.1),
];
const MARKETING: usize = 3;
/// Groups of the night: name, role, streams.
const GROUPS: [(&str, &str, &[usize]); 5] = [
    ("fulfilment", "packs what was ordered, at once", &[0, 1, 2, 3, 4, 5]),
    ("logistics", "books lorries; slow on purpose, and gone for a while", &[0, 1]),
    ("analytics", "counts; stops now and then", &[0, 2, 5]),
    ("cache-1", "keeps a shop window up to date", &[2]),
    ("cache-2", "keeps another one up to date", &[2]),
];
/// Seconds in which the broker is down.
const AWAY: Range<u64> = 30..32;
/// Seconds in which logistics is down.
const GONE: Range<u64> = 44..54;
const LOGISTICS_PER_S: f64 = 1_500.0;
const BASE: f64 = 600.0;
const NIGHT_S: u64 = 84;

/// Name of each phase of the night, its start in seconds, and whether it counts.
const PHASES: [(&str, u64, bool); 8] = [
    ("warm-up", 0, false),
    ("gathering", 10, true),
    ("hush", 20, true),
    ("step", 21, true),
    ("first peak", 22, true),
    ("plateau", 27, true),
    ("decay", 36, true),
    ("morning wave", 66, true),
];

/// The midnight of a shop: 6 streams, 5 groups, 8 phases, faults and samples.
pub fn night() -> Report {
    let mut play = Play::new(17);
    for second in 0..NIGHT_S + 30 {
        play.second(second);
        if second >= NIGHT_S && play.waiting.iter().flatten().all(|count| *count == 0) {
            break;
        }
    }
    play.report()
}

/// The night, but logistics missed some of the orders.
pub fn failed_night() -> Report {
    let mut report = night();
    let lost = |finding: &&mut Finding| finding.stream == 0 && finding.group == STREAMS.len() + 1;
    report.findings.iter_mut().filter(lost).for_each(|finding| finding.audit.lost = 37);
    report.rows[0].is_met = Some(false);
    report
}

/// One stream and one group at a constant rate for 20 seconds, on `target`; `slow` multiplies all
/// durations.
pub fn steady(target: &str, slow: f64, seed: u64) -> Report {
    let mut random = SplitMix64::of(seed, 1);
    let mut sums = [Interval::default(), Interval::default()];
    let seconds = (0..20).map(|number| {
        let count = 10_000 - random.number() % 30;
        let sent = sent_interval(&mut random, count, count, slow);
        let received = received_interval(&mut random, count, 0.7 * slow);
        sums[0].add(&sent);
        sums[1].add(&received);
        Second::pack(number, &[(0, sent), (1, received)])
    });
    let seconds: Vec<Second> = seconds.collect();
    let audit = Audit { acknowledged: sums[0].counters.acknowledged, ..Audit::default() };
    let phase = Phase {
        name: "steady".to_owned(),
        start_ns: 0,
        end_ns: 20 * S,
        counts: true,
        proves: "one rate for a while".to_owned(),
    };
    let stream = stream_track("load", "messages of one kind at one rate", false, None);
    let group = GroupFacts { streams: vec![0], rate: None, pauses: Vec::new(), members: 1 };
    Report {
        phases: vec![phase],
        tracks: vec![stream, group_track("consumer", "takes everything as it comes", group)],
        totals: vec![sums.into()],
        seconds,
        findings: vec![Finding { group: 1, stream: 0, audit }],
        unattributed: vec![Unattributed { group: 1, ..Unattributed::default() }],
        ..frame("steady", "10,000 msg/s of 1,024 B for 20 s, 16 connections x 64, json", target)
    }
}

/// A report without measurements.
fn frame(name: &str, load: &str, target: &str) -> Report {
    Report {
        subject: Subject {
            name: name.to_owned(),
            load: load.to_owned(),
            target: target.to_owned(),
            seed: 1,
            part: Part { index: 0, count: 1 },
            schedule: "5eed5eed5eed5eed".to_owned(),
            workload: "10ad10ad".to_owned(),
            environment: environment(),
            assumptions: Vec::new(),
        },
        started_unix_ns: 1_764_000_000 * S,
        sending_ns: 20 * S,
        consuming_ns: 20 * S,
        phases: Vec::new(),
        tracks: Vec::new(),
        totals: Vec::new(),
        seconds: Vec::new(),
        findings: Vec::new(),
        unattributed: Vec::new(),
        answers: Vec::new(),
        faults: Vec::new(),
        brokers: Vec::new(),
        samples: Vec::new(),
        threads: vec![cpu("generate-0", 0.41, true), cpu("group-0", 0.12, false)],
        asked: Vec::new(),
        rows: Vec::new(),
        is_overload: false,
        needs_valid_figures: false,
        incomplete: Vec::new(),
        not_valid: Vec::new(),
        notes: Vec::new(),
    }
}

fn cpu(name: &str, share: f64, must_keep_up: bool) -> ThreadCpu {
    ThreadCpu { name: name.to_owned(), share, must_keep_up }
}

fn environment() -> Map<String, Value> {
    let facts = json!({
        "loadgen": "0.1.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "command": "loadgen double11 pulse --embedded --compress 60 --peak 6000 --out runs/pulse",
        "cpu": "AMD EPYC 7763 64-Core Processor",
        "cores": 2,
        "memory": "16372284 kB",
        "kernel": "6.18.5",
        "governor": "unknown",
        "file_system": "ext4",
        "mount_options": "rw,relatime,data=ordered",
        "device": "vda: a virtual disk with a name that is longer than any real one ever was",
        "device_flush": {"p50_ns": 612_000, "p99_ns": 1_904_000, "max_ns": 8_251_000},
        "broker": "ringmq dev --shards 2 --flush sync --data /var/lib/ringmq",
        "configuration": {"seed": 1, "arrivals": "Poisson", "threads": 1},
    });
    facts.as_object().cloned().unwrap_or_default()
}

fn stream_track(name: &str, role: &str, is_one_way: bool, stands_in_for: Option<&str>) -> Track {
    let facts = StreamFacts {
        topics: vec![format!("loadgen-{name}")],
        header: "json".to_owned(),
        message_size_mean: 1024.0,
        batch: if name == "logs" { 32 } else { 1 },
        connections: 16,
        in_flight: 64,
        is_ordered: name == "orders",
        is_one_way,
        delay_ms: 0,
        stands_in_for: stands_in_for.map(str::to_owned),
    };
    let kind = TrackKind::Stream(facts);
    Track { name: name.to_owned(), role: role.to_owned(), kind }
}

fn group_track(name: &str, role: &str, facts: GroupFacts) -> Track {
    Track { name: name.to_owned(), role: role.to_owned(), kind: TrackKind::Group(facts) }
}

/// State of the simulation.
struct Play {
    random: SplitMix64,
    /// By group, then stream: stored, but not yet received.
    waiting: Vec<[u64; STREAMS.len()]>,
    /// By stream: sent while the broker is down.
    held: [u64; STREAMS.len()],
    seconds: Vec<Second>,
    totals: Vec<Vec<Interval>>,
    samples: Vec<Sample>,
    /// Totals since the broker's start.
    used: Sample,
}

impl Play {
    fn new(seed: u64) -> Self {
        let tracks = STREAMS.len() + GROUPS.len();
        let used = Sample { at_ns: 0, cpu_ns: 0, rss_bytes: 0, written_bytes: 0, read_bytes: 0 };
        Self {
            random: SplitMix64::of(seed, 0),
            waiting: vec![[0; STREAMS.len()]; GROUPS.len()],
            held: [0; STREAMS.len()],
            seconds: Vec::new(),
            totals: vec![vec![Interval::default(); tracks]; PHASES.len()],
            samples: Vec::new(),
            used,
        }
    }

    fn second(&mut self, second: u64) {
        let mut tracks = Vec::new();
        let mut stored = [0; STREAMS.len()];
        let due_in_all = STREAMS.iter().enumerate().map(|(index, _)| due(index, second)).sum();
        for (stream, stored) in stored.iter_mut().enumerate() {
            let due = (due(stream, second) * (0.97 + 0.06 * self.random.fraction())) as u64;
            if due == 0 {
                continue;
            }
            let interval = self.send(stream, second, due, due_in_all);
            *stored = interval.counters.acknowledged + interval.counters.one_way;
            tracks.push((stream, interval));
        }
        for (group, (_, _, streams)) in GROUPS.iter().enumerate() {
            streams.iter().for_each(|&stream| self.waiting[group][stream] += stored[stream]);
            let received = self.receive(group, second);
            if received.counters.received > 0 {
                tracks.push((STREAMS.len() + group, received));
            }
        }
        let phase = PHASES.iter().rposition(|(_, from, _)| *from <= second).unwrap_or(0);
        tracks.iter().for_each(|(track, interval)| self.totals[phase][*track].add(interval));
        self.seconds.push(Second::pack(second, &tracks));
        self.sample(second, stored.iter().sum());
    }

    /// Latency grows with the load. Messages sent while the broker is down are acknowledged after
    /// it is back.
    fn send(&mut self, stream: usize, second: u64, due: u64, due_in_all: f64) -> Interval {
        if AWAY.contains(&second) {
            let unknown = due.min(40);
            self.held[stream] += due - unknown;
            let counters = Counters { due, sent: due, unknown, ..Counters::default() };
            return Interval { counters, ..Interval::default() };
        }
        let refused = if second == 22 { due / 50 } else { 0 };
        let slow = 1.0 + due_in_all / 4_000.0 + if second == AWAY.end { 60.0 } else { 0.0 };
        let answered = due - refused + std::mem::take(&mut self.held[stream]);
        let mut interval = sent_interval(&mut self.random, due, answered, slow);
        interval.counters.refused = refused;
        if stream == MARKETING {
            let sent = interval.counters.sent;
            interval = Interval::default();
            interval.counters = Counters { due, sent, one_way: answered, ..Counters::default() };
        }
        interval
    }

    fn receive(&mut self, group: usize, second: u64) -> Interval {
        let pause = group == 2 && (24..27).contains(&second);
        let limit = match group {
            _ if AWAY.contains(&second) || pause => 0.0,
            1 if GONE.contains(&second) => 0.0,
            1 if second < NIGHT_S => LOGISTICS_PER_S,
            1 => 6_000.0,
            _ => 40_000.0,
        };
        let waiting: u64 = self.waiting[group].iter().sum();
        let taken = waiting.min(limit as u64);
        let mut rest = taken;
        for count in &mut self.waiting[group] {
            let part = (*count).min(rest);
            *count -= part;
            rest -= part;
        }
        let behind_s = (waiting - taken) as f64 / limit.max(1.0);
        received_interval(&mut self.random, taken, 1.0 + behind_s * 1_000.0)
    }

    /// The totals of a broker that was killed count from its restart.
    fn sample(&mut self, second: u64, stored: u64) {
        if second == AWAY.start {
            self.used.cpu_ns = 0;
            (self.used.written_bytes, self.used.read_bytes) = (0, 0);
        }
        if AWAY.contains(&second) {
            return;
        }
        self.used.at_ns = second * S + S / 2;
        self.used.cpu_ns += 40_000_000 + stored * 60_000;
        self.used.rss_bytes = (180 << 20) + second * (1 << 20);
        self.used.written_bytes += stored * 1_300;
        self.used.read_bytes += if second > GONE.end { stored * 200 } else { 0 };
        self.samples.push(self.used);
    }

    fn report(self) -> Report {
        let text = "peak 6,000/s at T+26 s, night / 60, 96 conn x 64, json";
        let target = "embedded 127.0.0.1:9876: 2 brokers, 6 topics, 96 queues";
        let acknowledged: u64 = {
            let all = self.totals.iter().flat_map(|phase| &phase[..STREAMS.len()]);
            all.map(|interval| interval.counters.acknowledged).sum()
        };
        let frame = frame("double11 pulse", text, target);
        let unattributed = (0..GROUPS.len())
            .map(|group| Unattributed { group: STREAMS.len() + group, ..Unattributed::default() });
        let share = |name: &str, part: f64| BrokerShare {
            name: name.to_owned(),
            acknowledged: (acknowledged as f64 * part) as u64,
        };
        let reason =
            "[SYSTEM_BUSY] too many requests and system thread pool busy, please try later";
        let answer =
            |stream, requests| Answered { stream, code: 2, reason: reason.to_owned(), requests };
        let last = self.seconds.last().map_or(0, |second| second.number + 1);
        Report {
            sending_ns: NIGHT_S * S,
            consuming_ns: last * S,
            phases: phases(),
            tracks: tracks(),
            findings: findings(&self.totals),
            unattributed: unattributed.collect(),
            answers: vec![answer(0, 61), answer(2, 48)],
            faults: faults(),
            brokers: vec![share("s00-broker-a", 0.62), share("s01-broker-a", 0.38)],
            samples: self.samples,
            rows: rows(),
            notes: vec!["producers lost their connection 96 times".to_owned()],
            totals: self.totals,
            seconds: self.seconds,
            subject: Subject {
                assumptions: vec![
                    "sizes, keys and curve are assumptions: nothing is on record".to_owned(),
                    "payments and timeouts are ordinary messages".to_owned(),
                ],
                ..frame.subject
            },
            ..frame
        }
    }
}

/// Messages of a stream of the night that are due in a second.
fn due(stream: usize, second: u64) -> f64 {
    let t = second as f64;
    let visitors = match t {
        t if t >= NIGHT_S as f64 => return 0.0,
        t if t < 10.0 => t / 10.0,
        t if t < 20.0 => 1.0 + (t - 10.0) / 5.0,
        t if t < 21.0 => 1.0,
        t if t < 27.0 => 9.0,
        t if t < 36.0 => 8.0,
        t if t < 66.0 => 1.5 + 6.5 * (-(t - 36.0) / 7.0).exp(),
        _ => 3.0,
    };
    let wave = |middle: f64, width: f64| (-((t - middle) / width).powi(2)).exp();
    let factor = match stream {
        1 => 6.0 * wave(47.0, 5.0),
        4 => 8.0 * wave(60.0, 2.0),
        _ => visitors,
    };
    factor * BASE * STREAMS[stream].2
}

/// `acknowledged` of `due` messages, with the latency tail of a log that waits for a disk.
fn sent_interval(random: &mut SplitMix64, due: u64, acknowledged: u64, slow: f64) -> Interval {
    let counters = Counters { due, sent: due, acknowledged, ..Counters::default() };
    let mut interval = Interval { counters, ..Interval::default() };
    each(random, acknowledged, |random, count| {
        let service_ns = wait_ns(random, 400_000.0 * slow.min(20.0));
        let slip_ns = (8_000.0 + 60_000.0 * random.fraction()) as u64;
        let queued_ns = (slow * 20_000.0 * random.fraction()) as u64;
        interval.record(Kind::Service, service_ns, count);
        interval.record(Kind::Lateness, slip_ns, count);
        interval.record(Kind::Latency, service_ns + slip_ns + queued_ns, count);
    });
    interval
}

fn received_interval(random: &mut SplitMix64, received: u64, slow: f64) -> Interval {
    let counters = Counters { received, ..Counters::default() };
    let mut interval = Interval { counters, ..Interval::default() };
    each(random, received, |random, count| {
        interval.record(Kind::EndToEnd, wait_ns(random, 900_000.0 * slow), count);
    });
    interval
}

/// Calls `take` with small counts that add up to `count`, so that tails have a shape.
fn each(random: &mut SplitMix64, count: u64, mut take: impl FnMut(&mut SplitMix64, u64)) {
    let step = (count / 150).max(1);
    let mut rest = count;
    while rest > 0 {
        let part = step.min(rest);
        take(random, part);
        rest -= part;
    }
}

/// Returns a wait that is usually near `usual_ns`, with a heavy tail.
fn wait_ns(random: &mut SplitMix64, usual_ns: f64) -> u64 {
    (usual_ns * random.fraction().powf(-0.35)) as u64
}

fn phases() -> Vec<Phase> {
    let ends = PHASES[1..].iter().map(|phase| phase.1).chain([NIGHT_S]);
    let phase = |(&(name, from, counts), to): (&(&str, u64, bool), u64)| Phase {
        name: name.to_owned(),
        start_ns: from * S,
        end_ns: to * S,
        counts,
        proves: format!("what {name} is there for"),
    };
    PHASES.iter().zip(ends).map(phase).collect()
}

fn tracks() -> Vec<Track> {
    let streams = STREAMS.iter().enumerate().map(|(index, (name, role, _))| {
        let stands_in_for = match index {
            1 => Some("half-message transactions"),
            4 => Some("messages with a delay of 30 minutes"),
            _ => None,
        };
        stream_track(name, role, index == MARKETING, stands_in_for)
    });
    let groups = GROUPS.iter().enumerate().map(|(index, (name, role, streams))| {
        let pause = |seconds: Range<u64>, is_down| Pause {
            from_ns: seconds.start * S,
            to_ns: seconds.end * S,
            is_down,
        };
        let (rate, pauses) = match index {
            1 => (Some(LOGISTICS_PER_S), vec![pause(GONE, true)]),
            2 => (None, vec![pause(24..27, false)]),
            _ => (None, Vec::new()),
        };
        group_track(name, role, GroupFacts { streams: streams.to_vec(), rate, pauses, members: 1 })
    });
    streams.chain(groups).collect()
}

/// Everything arrived; some messages were duplicated after the broker came back.
fn findings(totals: &[Vec<Interval>]) -> Vec<Finding> {
    let stored = |stream: usize| -> u64 {
        totals.iter().map(|phase| phase[stream].counters.acknowledged).sum()
    };
    let of_group = |(group, (_, _, streams)): (usize, &(&str, &str, &[usize]))| {
        let finding = |&stream: &usize| Finding {
            group: STREAMS.len() + group,
            stream,
            audit: Audit {
                acknowledged: stored(stream),
                duplicated: if group == 0 { 12 } else { 0 },
                unknown_present: 31,
                unknown_absent: 9,
                ..Audit::default()
            },
        };
        streams.iter().map(finding).collect::<Vec<_>>()
    };
    GROUPS.iter().enumerate().flat_map(of_group).collect()
}

fn faults() -> Vec<FaultMark> {
    let fault = |at_s: u64, until_s: Option<u64>, text: &str| FaultMark {
        at_ns: at_s * S,
        until_ns: until_s.map(|s| s * S),
        text: text.to_owned(),
        failed: None,
        back_after_ns: None,
        gaps: Vec::new(),
    };
    vec![
        fault(19, None, "kill -9 of NameServer 1, for good"),
        FaultMark {
            back_after_ns: Some(2_240_000_000),
            ..fault(AWAY.start, Some(AWAY.end), "kill -9 of the broker, down 2 s")
        },
        fault(34, Some(38), "disk of 200 writes/s, for 4 s"),
        FaultMark {
            failed: Some("needs a file system of its own".to_owned()),
            ..fault(62, Some(66), "disk filled to 95 % for 4 s")
        },
    ]
}

fn rows() -> Vec<Row> {
    let row = |what: &str, wanted: &str, found: &str, is_met| Row {
        what: what.to_owned(),
        wanted: wanted.to_owned(),
        found: found.to_owned(),
        is_met,
        is_required: false,
    };
    vec![
        row("nothing lost", "0 lost, in order", "0 of 187,000", Some(true)),
        row("p99.9 in step", "10 x gathering", "4.2 x: 19.41 ms", Some(true)),
        row("drain of logistics", "2 x production", "1.4 x", Some(false)),
        row("p99.9 after plateau", "1.2 x within 5 s", "too few messages", None),
    ]
}
