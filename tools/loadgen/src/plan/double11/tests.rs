//! The night as a value: proportions, totals, when producers join, which group receives what.

use clap::Parser;

use super::*;
use crate::options::{Command, Options};
use crate::plan::scenario::TRACKS_MAX;

const PEAK: f64 = 10_000.0;

fn options(line: &str) -> Double11Options {
    let line = format!("loadgen double11 {line}");
    match Options::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Double11(options) => options,
        other => panic!("not a night: {other:?}"),
    }
}

fn night(line: &str) -> Scenario {
    scenario(&options(line), PEAK, 1)
}

fn curve<'a>(scenario: &'a Scenario, name: &str) -> &'a RateCurve {
    let stream = scenario.streams.iter().find(|stream| stream.name == name).unwrap();
    stream.curve.as_ref().unwrap()
}

fn group<'a>(scenario: &'a Scenario, name: &str) -> &'a Group {
    scenario.groups.iter().find(|group| group.name == name).unwrap()
}

#[test]
fn all_streams_together_reach_the_peak_once() {
    for line in ["", "--compress 10", "--compress 60", "--compress 600"] {
        let scenario = night(line);
        let timeline = Timeline::new(options(line).profile.compress);
        let rate = |ns| -> f64 {
            scenario.streams.iter().map(|stream| stream.curve.as_ref().unwrap().rate_at(ns)).sum()
        };
        let at_peak = rate(timeline.at(26.0));
        assert!((at_peak / PEAK - 1.0).abs() < 1e-6, "{line}: {at_peak}");
        let curves: Vec<&RateCurve> =
            scenario.streams.iter().filter_map(|stream| stream.curve.as_deref()).collect();
        assert!(highest(&curves) <= PEAK * 1.000_001, "{line}: {}", highest(&curves));
        // The payment peak, on top of the orders that are still coming in.
        let payments = curve(&scenario, "payments").rate_at(timeline.at(322.0));
        assert!((payments / (PEAK * 12.0 / 25.0) - 1.0).abs() < 1e-6, "{line}: {payments}");
    }
}

#[test]
fn streams_have_their_parts_of_the_load() {
    let scenario = night("--compress 60");
    let ns = Timeline::new(60).at(26.0);
    let (orders, timeouts) = (0.4 / 1.15, 0.4 * 0.15 / 1.15);
    let rows = [
        ("orders", orders),
        ("inventory", 0.3),
        ("logs", 0.2),
        ("marketing", 0.1),
        ("timeouts", timeouts),
    ];
    for (name, part) in rows {
        assert!((curve(&scenario, name).rate_at(ns) / PEAK - part).abs() < 1e-6, "{name}");
    }
    assert_eq!(STREAMS.to_vec(), scenario.streams.iter().map(|s| &s.name).collect::<Vec<_>>());
}

/// 0 to 1 base rate in 300 s, 1 to 3 in 290 s and so on: the area under the curve of the visitors.
#[test]
fn totals_are_the_area_under_the_curves() {
    let base = PEAK / 25.0;
    let until_decay = 150.0 + 580.0 + 20.0 + 10.5 + 562.5 + 90.0 + 600.0;
    let (e, settled) = (1.0 - (-1740.0f64 / 180.0).exp(), 3.0 * (1740.0 + 1800.0));
    let visitors = until_decay + 17.0 * 180.0 * e + settled + 270.0 + 6.0 * 540.0;
    let scenario = night("");
    for (name, wanted) in [
        ("orders", 0.4 / 1.15 * visitors),
        ("logs", 0.2 * visitors),
        ("payments", 12.0 * 420.0 / 2.0),
    ] {
        let found = curve(&scenario, name).total();
        assert!((found / (base * wanted) - 1.0).abs() < 2e-3, "{name}: {found}, not {wanted}");
    }
}

#[test]
fn nine_of_ten_clients_join_in_the_last_minute() {
    let scenario = night("");
    assert_eq!(scenario.connection_count(), 1_000);
    let timeline = Timeline::new(1);
    let late: Vec<&LateJoin> =
        scenario.streams.iter().filter_map(|stream| stream.late.as_ref()).collect();
    let count = |from_s, to_s| {
        let joins = late.iter().flat_map(|late| &late.joins_ns);
        let window = timeline.at(from_s)..timeline.at(to_s);
        joins.filter(|ns| window.contains(ns)).count()
    };
    assert_eq!((count(-60.0, -5.0), count(-5.0, 0.0), count(-600.0, 4_200.0)), (720, 180, 900));
    for late in late {
        assert!(late.joins_ns.is_sorted());
        assert_eq!(late.loaded_from_ns, timeline.at(0.0));
    }
}

/// However few the connections, each broker has a producer of every stream from the start.
#[test]
fn every_broker_has_a_producer_of_every_stream() {
    for (line, brokers) in [("--connections 20", 4), ("--connections 20", 1), ("", 16)] {
        let scenario = scenario(&options(line), PEAK, brokers);
        for stream in &scenario.streams {
            let late = stream.late.as_ref().map_or(0, |late| late.joins_ns.len() as u32);
            assert!(stream.connections - late >= brokers, "{line} {}", stream.name);
        }
    }
}

/// The slow group falls behind, is down during the payments, and has caught up in time. The backlog
/// is computed second by second.
#[test]
fn logistics_falls_behind_and_catches_up_before_the_small_hours() {
    for line in ["", "--compress 60", "--compress 600", "limits --compress 60"] {
        let scenario = night(line);
        let logistics = group(&scenario, "logistics");
        let pause = &logistics.pauses[0];
        assert!(pause.is_down);
        let timeline = Timeline::new(options(line).profile.compress);
        let streams: Vec<&RateCurve> = logistics
            .streams
            .iter()
            .map(|&s| scenario.streams[s].curve.as_deref().unwrap())
            .collect();
        let step_ns = timeline.at(END_S) / 20_000;
        let (mut backlog, mut highest, mut caught_up_ns) = (0.0f64, 0.0f64, 0);
        for ns in (0..timeline.at(END_S)).step_by(step_ns as usize) {
            let produced: f64 = streams
                .iter()
                .map(|curve| curve.due_before(ns + step_ns) - curve.due_before(ns))
                .sum();
            let is_down = (pause.from_ns..pause.to_ns).contains(&ns);
            let taken = if is_down { 0.0 } else { logistics.rate.unwrap() };
            let before = backlog;
            backlog = (backlog + produced - taken * step_ns as f64 / 1e9).max(0.0);
            highest = highest.max(backlog);
            if before > 0.0 && backlog == 0.0 {
                caught_up_ns = ns;
            }
        }
        assert!(highest > PEAK / 25.0, "{line}: {highest}");
        assert!(caught_up_ns > pause.to_ns, "{line}");
        assert!(caught_up_ns < timeline.at(3_600.0), "{line}: {caught_up_ns}");
    }
}

/// 40 % of the highest sum of orders and payments, which is in the payment wave.
#[test]
fn logistics_is_slower_than_its_peak() {
    let scenario = night("");
    let (timeline, base) = (Timeline::new(1), PEAK / 25.0);
    let (orders, payments) = (curve(&scenario, "orders"), curve(&scenario, "payments"));
    let tenths = (2_020..6_220).map(|tenth| timeline.at(f64::from(tenth) / 10.0));
    let rates = tenths.map(|ns| orders.rate_at(ns) + payments.rate_at(ns));
    let highest = rates.fold(0.0, f64::max);
    assert!((14.0 * base..15.5 * base).contains(&highest), "{highest}");
    let rate = group(&scenario, "logistics").rate.unwrap();
    assert!((rate / highest - 0.4).abs() < 1e-3, "{rate}");
}

#[test]
fn the_first_group_takes_everything() {
    let scenario = night("");
    assert_eq!(scenario.groups[0].streams, [0, 1, 2, 3, 4, 5]);
    assert!((scenario.groups[0].rate.unwrap() / (PEAK * 1.2) - 1.0).abs() < 1e-6);
    assert!(scenario.track_count() <= TRACKS_MAX);
    assert_eq!(group(&scenario, "cache-1").streams, group(&scenario, "cache-2").streams);
    let pauses = &group(&scenario, "analytics").pauses;
    assert!(pauses.windows(2).all(|pair| pair[0].to_ns < pair[1].from_ns));
    assert_eq!(pauses[0].to_ns - pauses[0].from_ns, 10_000_000_000);
}

#[test]
fn limits_doubles_the_load_and_nothing_else() {
    let (pulse, limits) = (night(""), night("limits"));
    let peak = |scenario: &Scenario| curve(scenario, "orders").peak();
    assert!((peak(&limits) / peak(&pulse) - 2.0).abs() < 1e-6);
    assert!(limits.streams.iter().all(|stream| stream.retries == 0));
    assert!(pulse.streams.iter().any(|stream| stream.retries > 0));
    for (limits, pulse) in limits.groups.iter().zip(&pulse.groups) {
        let rates = limits.rate.zip(pulse.rate);
        assert!(rates.is_none_or(|(limits, pulse)| (limits / pulse - 1.0).abs() < 1e-6));
    }
    assert!(limits.assumptions.iter().any(|text| text.contains("no quotas")));
}

#[test]
fn only_break_has_faults_and_a_second_nameserver() {
    for (line, count, nameservers) in [("", 0, 0), ("limits", 0, 0), ("break", 5, 2)] {
        let scenario = night(line);
        assert_eq!(scenario.faults.len(), count, "{line}");
        assert!(scenario.faults.is_sorted_by_key(|fault| fault.at_ns));
        assert_eq!(options(line).target().nameservers, nameservers, "{line}");
    }
    assert_eq!(options("break --nameservers 3").target().nameservers, 3);
    assert_eq!(options("break --namesrv 127.0.0.1:1").target().nameservers, 0);
}

#[test]
fn the_mixture_has_the_proportions_of_the_peak() {
    let mixture = mixture(&options("ceiling"), 5_000.0, Duration::from_secs(5), 2);
    let names: Vec<&str> = mixture.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["orders", "inventory", "marketing", "logs"]);
    for (name, part) in [("orders", 0.4), ("inventory", 0.3), ("marketing", 0.1), ("logs", 0.2)] {
        assert!((curve(&mixture, name).total() - 25_000.0 * part).abs() < 1e-6, "{name}");
    }
    assert_eq!(mixture.end_ns(), 5_000_000_000);
    assert_eq!(mixture.groups[0].streams, [0, 1, 2, 3]);
    assert_eq!(group(&mixture, "logistics").streams, [0]);
    assert_eq!(group(&mixture, "cache-1").streams, [1]);
    assert!(mixture.groups.iter().all(|group| group.rate.is_none() && group.pauses.is_empty()));
    assert!(mixture.streams.iter().all(|stream| stream.late.is_none()));
}

#[test]
fn lines_of_the_report_fit() {
    for line in ["", "limits --compress 600 --connections 50000 --header binary", "break"] {
        let scenario = scenario(&options(line), 12_345_678.0, 1);
        assert!(scenario.text.len() <= 69, "{}", scenario.text);
        for text in &scenario.assumptions {
            assert!(text.len() <= 88, "{text}");
        }
        let roles = scenario.streams.iter().map(|stream| &stream.role);
        for role in roles.chain(scenario.groups.iter().map(|group| &group.role)) {
            assert!(!role.is_empty() && role.len() <= 80, "{role}");
        }
    }
}

/// Each phase that a threshold refers to exists under that name.
#[test]
fn rows_ask_about_phases_that_exist() {
    let scenario = night("break");
    let steady = scenario.phases.iter().position(|phase| phase.name == "small hours").unwrap();
    let step = scenario.phases.iter().position(|phase| phase.name == "step").unwrap();
    let tail = Criterion::TailWithin { phase: step, beside: steady, factor: 10.0 };
    assert!(scenario.asked.contains(&tail), "{:?}", scenario.asked);
    // Killed for 5 s, frozen for 10 s.
    for (fault, within) in [(1, 8), (2, 13)] {
        let back = Criterion::BackWithin { fault, within: Duration::from_secs(within) };
        assert!(scenario.asked.contains(&back), "{:?}", scenario.asked);
    }
    let drained = scenario.asked.iter().find_map(|asked| match asked {
        Criterion::Drain { group, .. } => Some(scenario.groups[*group].name.as_str()),
        _ => None,
    });
    assert_eq!(drained, Some("logistics"));
}
