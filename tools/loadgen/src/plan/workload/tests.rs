//! Files as people write them: valid, invalid, and damaged.

use super::*;
use crate::options::Part;
use crate::plan::keys::{KeySpace, Keys};
use crate::plan::scenario::{FaultKind, Pause};
use crate::plan::schedule::{Arrivals, SplitMix64};
use crate::plan::threshold::Threshold;

const SIMPLE: &str = "producerRate: 100\ntestDurationMinutes: 1\n";

/// As in the files that come with OpenMessaging Benchmark.
#[test]
fn ten_million_a_second_means_as_fast_as_possible() {
    let text = "producerRate: 10000000\ntestDurationMinutes: 1\nfailIf: [\"p99>20ms\"]\n";
    let scenario = yaml(text).unwrap().scenario(&process(), None, 1);
    assert!(scenario.streams[0].curve.is_none());
    let note = "producerRate 10,000,000: taken as `max`, which is what such rates mean";
    assert!(scenario.assumptions.iter().any(|it| it == note), "{:?}", scenario.assumptions);
    assert!(scenario.text.starts_with("max (for 10,000,000/s) x "), "{}", scenario.text);
    let limit = Criterion::FailIf(Threshold::parse("p99>20ms").unwrap());
    assert!(scenario.asked.contains(&limit), "{:?}", scenario.asked);
}

/// The same for rates over time, in both forms. Among other rates it is refused, with its line.
#[test]
fn a_curve_of_ten_million_a_second_is_max_or_refused() {
    for (way, low, high) in [
        ("producerRateList", "[0, 0, 100]", "[0, 5, 20000000], [0, 6, 30000000]"),
        ("curve", "[0s, 9999999]", "[5s, 20000000], [6s, 30000000]"),
    ] {
        let text = |points: &str| format!("testDurationMinutes: 1\n{way}: [{points}]\n");
        let scenario = scenario(&text(high));
        assert!(scenario.streams[0].curve.is_none(), "{way}");
        let note = format!("{way} 30,000,000: taken as `max`, which is what such rates mean");
        assert!(scenario.assumptions.contains(&note), "{:?}", scenario.assumptions);
        assert!(scenario.text.starts_with("max (for 30,000,000/s) x "), "{}", scenario.text);

        let wrong = yaml(&text(&format!("{low}, {high}"))).unwrap_err();
        let said = format!("{way} reaches 30,000,000/s, but rates from 10,000,000/s up mean `max`");
        assert!(wrong.line == 2 && wrong.text.starts_with(&said), "{wrong:?}");
        assert!(wrong.text.ends_with("give lower ones, or `producerRate: max`"), "{wrong:?}");
        assert!(yaml(&text(low)).is_ok());
    }
}

/// A group that receives as fast as possible has no pace.
#[test]
fn a_group_of_ten_million_a_second_takes_all_it_can() {
    let of = |rate: &str| scenario(&format!("{SIMPLE}groups: [{{name: a, rate: {rate}}}]\n"));
    assert_eq!(of("9M").groups[0].rate, Some(9e6));
    let scenario = of("20M");
    assert_eq!(scenario.groups[0].rate, None);
    let note = "rate of group a 20,000,000: taken as `max`, which is what such rates mean";
    assert_eq!(scenario.assumptions, [note]);
}

fn process() -> ProcessOptions {
    ProcessOptions { part: Part::WHOLE, start_at: None, threads: 1, spin: false }
}

fn yaml(text: &str) -> Result<Workload, Wrong> {
    parse(text, Language::Yaml)
}

fn scenario(text: &str) -> Scenario {
    yaml(text).unwrap().scenario(&process(), None, 1)
}

fn shipped(name: &str) -> Workload {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name)).unwrap()
}

#[test]
fn every_file_that_is_shipped_can_be_run() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "README.md");
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        let workload = shipped(&name);
        assert_eq!(workload.name(), name.split('.').next().unwrap());
        let found = workload.is_search().then_some(5_000.0);
        let scenario = workload.scenario(&process(), found, 2);
        assert!(scenario.text.len() <= 69, "{}", scenario.text);
        assert!(scenario.streams.iter().all(|stream| stream.curve.is_some()), "{name}");
        let ends = scenario.streams.iter().map(|stream| stream.curve.as_ref().unwrap().end_ns());
        assert!(ends.into_iter().all(|end_ns| end_ns == scenario.end_ns()), "{name}");
    }
}

#[test]
fn a_file_of_openmessaging_benchmark_is_read_as_it_is_meant() {
    let scenario = shipped("omb-simple.yaml").scenario(&process(), None, 1);
    let phases: Vec<_> =
        scenario.phases.iter().map(|it| (it.name.as_str(), it.end_ns, it.counts)).collect();
    assert_eq!(phases, [("warm-up", 60_000_000_000, false), ("test", 360_000_000_000, true)]);
    let [stream] = &scenario.streams[..] else { panic!("one stream") };
    assert_eq!((stream.queues, stream.connections, stream.sizes.mean()), (10, 1, 1024.0));
    assert_eq!(stream.curve.as_ref().unwrap().total(), 3_600_000.0);
    assert_eq!((scenario.groups.len(), &scenario.groups[0].streams), (1, &vec![0]));
    assert!(scenario.assumptions.is_empty(), "{:?}", scenario.assumptions);
}

#[test]
fn partitions_are_those_of_all_brokers_together() {
    let workload = shipped("omb-simple.yaml");
    let of = |brokers| {
        let scenario = workload.scenario(&process(), None, brokers);
        (scenario.streams[0].queues, scenario.assumptions.len())
    };
    assert_eq!([of(1), of(2), of(4), of(16)], [(10, 0), (5, 0), (3, 1), (1, 1)]);
}

/// 10 GiB of 1 KiB at 100,000 per second: nothing is consumed for 105 s.
#[test]
fn a_backlog_is_a_phase_in_which_nobody_consumes() {
    let scenario = shipped("omb-backlog.yaml").scenario(&process(), None, 1);
    let names: Vec<&str> = scenario.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["warm-up", "backlog", "test"]);
    let filled_ns = scenario.phases[1].end_ns;
    assert_eq!(filled_ns, 60_000_000_000 + 104_857_600_000);
    let pause = Pause { from_ns: 60_000_000_000, to_ns: filled_ns, is_down: false };
    assert_eq!(scenario.groups[0].pauses, [pause]);
    assert!(scenario.asked.contains(&Criterion::Drain { group: 0, factor: 1.0 }));
    assert!(scenario.assumptions[0].contains("consumerBacklogSizeGB"));
}

#[test]
fn a_list_of_rates_is_a_staircase() {
    let scenario = shipped("amq-scale.yaml").scenario(&process(), None, 1);
    let curve = scenario.streams[0].curve.as_ref().unwrap();
    let minute = 60_000_000_000;
    for (minutes, rate) in
        [(0, 1_024.0), (4, 1_024.0), (5, 20_480.0), (16, 1_024.0), (29, 30_720.0)]
    {
        assert!((curve.rate_at(minutes * minute + 1) - rate).abs() < 1e-6, "minute {minutes}");
    }
    assert!(scenario.assumptions.iter().any(|note| note.starts_with("producerRateList")));
}

#[test]
fn a_rate_of_zero_is_searched_for() {
    let workload = shipped("omb-max.yaml");
    assert!(workload.is_search() && !shipped("omb-simple.yaml").is_search());
    let probe = workload.probe(&process(), 2_000.0, Duration::from_secs(5), 1);
    assert_eq!((probe.end_ns(), probe.phases.len()), (5_000_000_000, 1));
    assert_eq!(probe.streams[0].curve.as_ref().unwrap().total(), 10_000.0);
    let scenario = workload.scenario(&process(), Some(2_000.0), 1);
    assert_eq!(scenario.streams[0].curve.as_ref().unwrap().rate_at(5), 2_000.0);
    assert_eq!(scenario.end_ns(), 360_000_000_000);
}

#[test]
fn our_own_fields_make_a_shop() {
    let scenario = shipped("small-shop.toml").scenario(&process(), None, 1);
    let [orders, clicks, logs] = &scenario.streams[..] else { panic!("three streams") };
    assert!(orders.is_ordered && clicks.is_one_way && !logs.is_ordered);
    assert_eq!((logs.batch, logs.in_flight, logs.queues), (50, 16, 8));
    let zipf = KeySpace::Zipf { exponent: 1.0, count: 100_000 };
    assert_eq!(orders.keys, Keys::Drawn(vec![(0, zipf)]));
    let curve = orders.curve.as_ref().unwrap();
    assert_eq!(curve.rate_at(11_000_000_000), 1_600.0);
    assert_eq!(curve.rate_at(80_000_000_000), 400.0);
    assert!((clicks.sizes.mean() - 190.0).abs() < 1e-6);
    let parcels = &scenario.groups[1];
    assert_eq!((parcels.streams.as_slice(), parcels.rate), (&[0][..], Some(2_500.0)));
    assert!(parcels.pauses[0].is_down);
    let down = Duration::from_secs(2);
    assert_eq!(scenario.faults[0].kind, FaultKind::KillBroker { down });
    assert_eq!((scenario.seed, scenario.end_ns()), (11, 90_000_000_000));
    let back = Criterion::BackWithin { fault: 0, within: Duration::from_secs(5) };
    assert!(scenario.asked.contains(&back), "{:?}", scenario.asked);
}

#[test]
fn process_options_are_not_the_files_business() {
    let process = ProcessOptions { part: Part { index: 1, count: 3 }, threads: 2, ..process() };
    let scenario = yaml(SIMPLE).unwrap().scenario(&process, None, 1);
    assert_eq!((scenario.part.index, scenario.threads), (1, 2));
    assert_eq!(scenario.arrivals, Arrivals::Poisson);
}

/// Fields without effect are reported.
#[test]
fn what_is_not_carried_out_as_written_is_named() {
    let rows = [
        ("useRandomizedPayloads: true\n", "randomized payloads"),
        ("randomBytesRatio: 0.5\n", "randomized payloads"),
        ("randomizedPayloadPoolSize: 100\n", "randomized payloads"),
        ("payloadFile: payload/1kb.data\n", "payloadFile payload/1kb.data"),
        ("keyDistributor: RANDOM_NANO\n", "keyDistributor"),
        ("backlogDrainRatio: 0.5\n", "backlogDrainRatio"),
    ];
    for (line, note) in rows {
        let notes = scenario(&format!("{SIMPLE}{line}")).assumptions;
        assert!(notes.iter().any(|text| text.starts_with(note)), "{line}: {notes:?}");
    }
    assert!(scenario(SIMPLE).assumptions.is_empty());
}

#[test]
fn a_stream_is_delayed_as_the_file_says() {
    let delays = |text: &str| scenario(&format!("{SIMPLE}{text}")).delays_ns();
    assert_eq!(delays(""), [0]);
    assert_eq!(delays("delay: 1500ms\ninFlight: 1\n"), [1_500_000_000]);
    let scenario = scenario(&format!("{SIMPLE}delay: 90s\n"));
    assert_eq!(scenario.last_arrival_ns(), scenario.end_ns() + 90_000_000_000);
}

#[test]
fn a_group_has_as_many_members_as_the_file_says() {
    let members = |text: &str| -> Vec<u32> {
        scenario(&format!("{SIMPLE}{text}")).groups.iter().map(|group| group.members).collect()
    };
    assert_eq!(members(""), [1]);
    assert_eq!(members("consumerPerSubscription: 3\nsubscriptionsPerTopic: 2\n"), [3, 3]);
    let groups = "groups:\n  - name: a\n  - name: b\n    consumers: 4\n";
    assert_eq!(members(&format!("consumerPerSubscription: 2\n{groups}")), [2, 4]);
}

/// Every name in the tables of fields is read somewhere.
#[test]
fn no_known_field_is_forgotten() {
    let root = tree::from_yaml(SIMPLE).unwrap();
    let known = [spec::RUN_FIELDS, spec::STREAM_FIELDS];
    let fields = fields::Fields::of(&root, "a workload", &known, None).unwrap();
    spec::read(&fields).unwrap();
    assert_eq!(fields.never_read(), Vec::<&str>::new());
}

#[test]
fn a_wrong_file_is_refused_with_the_line_and_the_nearest_name() {
    let streams = "streams:\n  - name: a\n    producerRate: 5\n";
    let rows = [
        ("producerRtae: 5\n", 3, "did you mean `producerRate`?"),
        ("prodcerspertopic: 5\n", 3, "did you mean `producersPerTopic`?"),
        ("zzz: 5\n", 3, "`zzz` is not a field of a workload; there are name, "),
        ("batch: 5\nbatch: 6\n", 4, "already set on line 3"),
        ("batch: many\n", 3, "batch: a number from 1 to 10,000 is wanted, not `many`"),
        ("batch: 0\n", 3, "a number from 1 to 10,000"),
        ("batch: [1]\n", 3, "not a list"),
        ("batch:\n  a: 1\n", 4, "not a table"),
        ("topics: 1000000\n", 3, "topics: a number from 1 to 10,000"),
        ("messageSize: 12\n", 3, "messageSize: a message has 40 to"),
        ("messageSize: 1 parsec\n", 3, "`1 parsec`: \"parsec\" is not a unit of size"),
        ("messageSize: [[100, 1], [200]]\n", 3, "[size, weight] is wanted"),
        ("messageSize: [[100, 0]]\n", 3, "a weight is positive"),
        ("messageSize: []\n", 3, "1 to 64 sizes"),
        ("header: jsno\n", 3, "did you mean `json`?"),
        ("keyDistributor: NO_KEYS\n", 3, "did you mean `NO_KEY`?"),
        ("keyDistributor: zipf:x:5\n", 3, "`zipf:1.0:1000`"),
        ("delay: 5\n", 3, "is not a duration, such as 500ms"),
        ("delay: 5s\nordered: true\n", 3, "the order of delayed messages"),
        ("oneWay: yes\n", 3, "true or false is wanted, not `yes`"),
        ("arrivals: often\n", 3, "arrivals are `poisson`"),
        ("warmupDuration: 90\n", 3, "`90`: \"90\" is not a duration"),
        ("testDuration: 1m\n", 3, "say the same thing"),
        ("producerRateList: [[0, 0, 5]]\n", 1, "cannot both say what is sent"),
        ("phases: [{name: a, duration: 1m}]\n", 2, "cannot both say how long"),
        ("phases: [{name: a}]\ntestDuration:\n", 2, "cannot both say how long"),
        ("topic: a.b\n", 3, "topic: "),
        ("groups: 5\n", 3, "groups: a list is wanted"),
        ("groups: [a]\n", 3, "a group is a table of fields"),
        ("groups: [{role: a}]\n", 3, "`name` is missing"),
        ("groups:\n  - name: a\n    streams: [laod]\n", 5, "did you mean `load`?"),
        ("groups: [{name: a}, {name: a}]\n", 3, "a group `a` already"),
        ("groups: [{name: a b}]\n", 3, "a word of 1 to 40 letters"),
        ("subscriptionsPerTopic: 64\n", 1, "65 streams and groups are more than 64"),
        ("producersPerTopic: 50000\ntopics: 2\n", 1, "100,000 producers are more than 50,000"),
        ("faults: [{at: 5s, kind: killBrokr, duration: 1s}]\n", 3, "did you mean `killBroker`?"),
        ("faults: [{at: 5s, kind: killBroker}]\n", 3, "`duration` is missing"),
        ("faults: [{at: 9h, kind: freezeBroker, duration: 1s}]\n", 3, "the run is over by then"),
        ("faults: [{at: 5s, kind: killBroker, duration: 1s, to: 5%}]\n", 3, "has no `to`"),
        ("faults: [{at: 5s, kind: fillDisk, duration: 1s, to: 200%}]\n", 3, "to: `50%` or 0.5"),
        ("consumerBacklogSizeGB: 1000000\n", 3, "not there within a week"),
        (
            "streams: [{name: a, producerRate: 10M}]\nconsumerBacklogSizeGB: 1\n",
            4,
            "a constant producerRate below 10,000,000",
        ),
        ("groups: [{name: a, pauses: [{from: 5s, to: 5s}]}]\n", 3, "ends after it begins"),
    ];
    for (lines, line, message) in rows {
        let wrong = yaml(&format!("{SIMPLE}{lines}")).unwrap_err();
        assert!(wrong.line == line && wrong.text.contains(message), "{lines}: {wrong:?}");
    }
    let rows = [
        ("", 1, "a workload is a table of fields, not nothing".to_owned()),
        ("- 1\n", 1, "not a list".to_owned()),
        ("name: a\n", 1, "`producerRate` is missing".to_owned()),
        ("producerRate: -5\ntestDuration: 1m\n", 1, "a rate is positive".to_owned()),
        ("curve: [[0s, 2000000000]]\ntestDuration: 1m\n", 1, "curve: ".to_owned()),
        (
            "producerRate: 5\ntestDuration: 1m\nfailIf: [p99]\n",
            3,
            "failIf: `p99`: a threshold is".to_owned(),
        ),
        ("producerRate: 5\n", 1, "`testDurationMinutes` is missing".to_owned()),
        ("producerRate: 5\ntestDurationMinutes: 0\n", 2, "takes some time".to_owned()),
        ("curve: [[5s, 1], [1s, 1]]\ntestDuration: 1m\n", 1, "times go backwards".to_owned()),
        ("curve: []\ntestDuration: 1m\n", 1, "[[time, rate], ...] is wanted".to_owned()),
    ];
    for (text, line, message) in rows {
        let wrong = yaml(text).unwrap_err();
        assert!(wrong.line == line && wrong.text.contains(&message), "{text}: {wrong:?}");
    }
    let rows = [
        ("  - name: a\n    producerRate: 5\n", 5, "a stream `a` already"),
        ("  - name: b\n    producerRate: 0\n", 6, "only where there are no `streams`"),
        ("  - name: b\n    producerRate: 5\n    topic: loadgen-a\n", 7, "that of another stream"),
        (
            "  - name: b\n    topics: 2\n    topic: x\n    producerRate: 5\n  - name: c\n    \
             producerRate: 5\n    topic: x-1\n",
            11,
            "topic `x-1` is that of another stream, `b`: name another `topic`",
        ),
        (
            "  - name: a-1\n    producerRate: 5\n  - name: c\n    producerRate: 5\n    topics: 2\n    \
             topic: loadgen-a\n",
            10,
            "topic `loadgen-a` is that of another stream, `a`",
        ),
        (
            "  - name: b-1\n    producerRate: 5\n  - name: b\n    producerRate: 5\n    topics: 2\n",
            7,
            "topic `loadgen-b-1` is that of another stream, `b-1`",
        ),
        ("  - name: b\n    prducerRate: 5\n", 6, "did you mean `producerRate`?"),
        ("topic: x\n", 5, "a `topic` of its own"),
        (
            "  - name: b\n    producerRate: 5\ngroups: [{name: g, streams: [a]}]\n",
            7,
            "every stream",
        ),
    ];
    for (lines, line, message) in rows {
        let wrong = yaml(&format!("testDuration: 1m\n{streams}{lines}")).unwrap_err();
        assert!(wrong.line == line && wrong.text.contains(message), "{lines}: {wrong:?}");
    }
}

/// Numbers after a name are those of its own topics, and of no more than it has.
#[test]
fn topics_that_only_look_alike_are_different() {
    let text = "testDuration: 1m\nproducerRate: 7\nstreams:\n  - name: x\n    topic: a\n    \
                topics: 2\n  - name: y\n    topic: a-2\n  - name: z\n    topic: a-1\n    \
                topics: 2\n  - name: w\n    topic: a-01\n";
    let scenario = scenario(text);
    let topics: Vec<&str> = scenario.topics().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["a-0", "a-1", "a-2", "a-1-0", "a-1-1", "a-01"]);
}

#[test]
fn values_at_the_top_are_defaults_of_streams() {
    let text = "testDuration: 1m\nproducerRate: 7\nbatch: 3\nstreams:\n  - name: a\n  - name: b\n    \
                batch: 4\n    curve: [[0s, 5], [1s, 5]]\n";
    let scenario = scenario(text);
    let streams: Vec<_> = scenario
        .streams
        .iter()
        .map(|stream| (stream.batch, stream.curve.as_ref().unwrap().rate_at(5)))
        .collect();
    assert_eq!(streams, [(3, 7.0), (4, 5.0)]);
}

/// Points after the end are cut off where the line crosses it.
#[test]
fn a_curve_ends_with_the_run() {
    assert_eq!(until(&[(0, 0.0), (100, 10.0)], 50), [(0, 0.0), (0, 0.0), (50, 5.0)]);
    assert_eq!(until(&[(20, 4.0)], 50), [(0, 4.0), (20, 4.0), (50, 4.0)]);
    assert_eq!(until(&[(80, 4.0)], 50), [(0, 4.0), (50, 4.0)]);
}

#[test]
fn files_are_named_in_what_is_wrong_with_them() {
    let wrong = |name: &str| {
        let path = std::env::temp_dir().join(format!("loadgen-{}-{name}", std::process::id()));
        fs::write(&path, "batch: 5\nbatsh: 6\n").unwrap();
        let text = read(&path).unwrap_err().to_string();
        fs::remove_file(path).unwrap();
        text
    };
    let text = wrong("a.yaml");
    assert!(text.contains("a.yaml:2: `batsh` is not a field"), "{text}");
    assert!(wrong("b.txt").contains("is called .yaml, .yml or .toml"));
    assert!(wrong("c.toml").contains("c.toml:1: no TOML"));
    let missing = read(Path::new("/no/such/workload.yaml")).unwrap_err().to_string();
    assert!(missing.starts_with("/no/such/workload.yaml: "), "{missing}");
}

/// Any mutation of a file is either read or refused, and what is read makes a scenario.
#[test]
fn broken_files_never_panic() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let of = |name: &str| fs::read(directory.join(name)).unwrap();
    let files = [
        (of("omb-backlog.yaml"), Language::Yaml),
        (of("amq-scale.yaml"), Language::Yaml),
        (of("small-shop.toml"), Language::Toml),
    ];
    const BITS: [&[u8]; 12] = [
        b"0",
        b"-1",
        b"1e999",
        b"nan",
        b"[",
        b"}",
        b"\n",
        b": ",
        b"\"",
        b"99999999999999999999",
        b"  ",
        "µ".as_bytes(),
    ];
    let mut accepted = 0;
    for seed in 0..600 {
        let mut random = SplitMix64::of(seed, 5);
        let (text, language) = &files[seed as usize % files.len()];
        let mut bytes = text.clone();
        for _ in 0..1 + random.number() % 3 {
            let at = random.number() as usize % bytes.len();
            let length = random.number() as usize % 12;
            let end = (at + length).min(bytes.len());
            let bit = BITS[random.number() as usize % BITS.len()];
            bytes.splice(at..end, bit.iter().copied());
        }
        let text = String::from_utf8_lossy(&bytes);
        match parse(&text, *language) {
            Err(wrong) => {
                let lines = text.lines().count() + 1;
                assert!((1..=lines).contains(&wrong.line), "seed {seed}: {wrong:?}");
            }
            Ok(workload) => {
                accepted += 1;
                workload.scenario(&process(), Some(1.0), 3);
            }
        }
    }
    assert!((20..580).contains(&accepted), "{accepted} of 600 are still workloads");
}

/// The limit that an error of the file names.
fn limit_of(text: &str) -> Option<String> {
    let wrong = yaml(text).err()?.text;
    let (_, from) = wrong.split_once("a number from ")?;
    from.split_once(" is wanted").map(|(limit, _)| limit.to_owned())
}

const MANUAL: &str = include_str!("../../../workloads/README.md");

/// Whoever writes a file need not try out what it may say.
#[test]
fn every_limit_of_a_number_is_in_the_manual() {
    const HUGE: &str = "99999999999999999999999";
    let base = ["producerRate: 100", "testDurationMinutes: 1"];
    let mut count = 0;
    for field in spec::RUN_FIELDS.iter().chain(spec::STREAM_FIELDS) {
        let others = base.iter().filter(|line| !line.starts_with(field));
        let lines: Vec<String> = others.map(|line| (*line).to_owned()).collect();
        let text = format!("{}\n{field}: {HUGE}\n", lines.join("\n"));
        let Some(limit) = limit_of(&text) else { continue };
        let has_name = |line: &&str| {
            line.split('|').nth(1).is_some_and(|names| names.contains(&format!("`{field}`")))
        };
        let row = MANUAL.lines().find(has_name).unwrap_or_else(|| panic!("no row for {field}"));
        assert!(row.contains(&limit), "{field}: {limit}\n{row}");
        count += 1;
    }
    assert!(count >= 14, "{count} limits");
    let group = format!("{SIMPLE}groups:\n  - name: a\n    consumers: {HUGE}\n");
    let fault = |kind: &str, field: &str| {
        let fault = format!("at: 1s\n    duration: 1s\n    kind: {kind}\n    {field}: {HUGE}");
        format!("{SIMPLE}faults:\n  - {fault}\n")
    };
    for text in [group, fault("killNameServer", "index"), fault("slowDisk", "writesPerSecond")] {
        let limit = limit_of(&text).unwrap();
        assert!(MANUAL.contains(&limit), "{limit}");
    }
}

/// The limits of what is no single number.
#[test]
fn every_other_limit_is_in_the_manual() {
    let sizes = "[100, 1], ".repeat(65);
    let tracks = (0..65).map(|it| format!("  - name: g{it}\n")).collect::<String>();
    let rows = [
        ("producerRate: 2000M\ntestDuration: 1m".to_owned(), "at most 1,000,000,000"),
        (format!("{SIMPLE}messageSize: [{sizes}]"), "1 to 64 sizes"),
        (format!("{SIMPLE}messageSize: 5MiB"), "to 4,194,304 bytes"),
        (format!("{SIMPLE}messageSize: 1"), &size_min()),
        (format!("{SIMPLE}topics: 2\nproducersPerTopic: 50000"), "50,000"),
        (format!("{SIMPLE}groups:\n{tracks}"), "64"),
        (format!("{SIMPLE}keyDistributor: uniform:20000000"), "2 to 10,000,000"),
        (format!("{SIMPLE}groups:\n  - name: {}", "x".repeat(41)), "1 to 40 letters"),
        ("producerRate: 100\ntestDuration: 8d".to_owned(), "at most a week"),
    ];
    for (text, limit) in rows {
        let wrong = yaml(&text).unwrap_err().text;
        assert!(wrong.contains(limit), "{wrong}");
        assert!(MANUAL.contains(limit), "{limit}");
    }
    assert!(MANUAL.contains("1 MiB") && FILE_SIZE_MAX == 1 << 20);
}

fn size_min() -> String {
    format!("{} to", crate::engine::payload::MESSAGE_SIZE_MIN)
}
