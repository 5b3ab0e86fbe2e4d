//! The faults of `double11 break`, around midnight.

use std::time::Duration;

use crate::plan::double11::timeline::Timeline;
use crate::plan::scenario::{Fault, FaultKind, Heard};

/// Minimum duration of a fault, however short the night, so that it shows in figures per second.
const LENGTH_MIN_S: f64 = 1.0;
/// Minimum time from the end of a fault to the start of the next. By then, a broker that was killed
/// has recovered its log and serves; otherwise the next fault would hit the recovery instead of the
/// load.
const APART_NS: u64 = 4_000_000_000;
/// A slow disk takes 50 ms per write.
const SLOW_WRITES_PER_S: u64 = 20;
const SLOW_BYTES_PER_S: u64 = 8 << 20;
/// How full a full disk is, as a share of its size.
const FULL: f64 = 0.95;

/// The faults in the order of the profile, delayed as needed to avoid overlap. Only the NameServer,
/// which stays dead, overlaps with the others. With replicas, they hit the machine that leads the
/// first shard at the time.
pub fn around_midnight(timeline: Timeline, compress: u32, is_replicated: bool) -> Vec<Fault> {
    let length =
        |real_s: f64| Duration::from_secs_f64((real_s / f64::from(compress)).max(LENGTH_MIN_S));
    let kill_name_server = FaultKind::KillNameServer { index: 0, down: None };
    let (kill, freeze, partition) = match is_replicated {
        false => (
            FaultKind::KillBroker { down: length(5.0) },
            FaultKind::FreezeBroker { length: length(10.0) },
            None,
        ),
        true => (
            FaultKind::KillMachine { down: length(5.0) },
            FaultKind::PauseMachine { length: length(10.0) },
            Some(FaultKind::Partition { heard: Heard::Nothing, length: length(30.0) }),
        ),
    };
    let mut rows = vec![
        (-10.0, kill_name_server),
        (20.0, kill),
        (45.0, freeze),
        (
            90.0,
            FaultKind::SlowDisk {
                writes_per_s: SLOW_WRITES_PER_S,
                bytes_per_s: SLOW_BYTES_PER_S,
                length: length(30.0),
            },
        ),
    ];
    rows.extend(partition.map(|partition| (120.0, partition)));
    rows.push((150.0, FaultKind::FillDisk { to: FULL, length: length(30.0) }));
    let mut free_from_ns = 0;
    let fault = |(real_s, kind): (f64, FaultKind)| {
        let at_ns = timeline.at(real_s).max(free_from_ns);
        free_from_ns = kind.length().map_or(at_ns, |length| at_ns + nanos(length) + APART_NS);
        Fault { at_ns, kind }
    };
    rows.into_iter().map(fault).collect()
}

fn nanos(length: Duration) -> u64 {
    length.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::double11::timeline::END_S;

    #[test]
    fn faults_come_when_the_profile_says() {
        let timeline = Timeline::new(1);
        let faults = around_midnight(timeline, 1, false);
        let times = faults.iter().map(|fault| fault.at_ns).collect::<Vec<_>>();
        assert_eq!(times, [-10.0, 20.0, 45.0, 90.0, 150.0].map(|real_s| timeline.at(real_s)));
        assert_eq!(faults[2].kind.length(), Some(Duration::from_secs(10)));
        assert_eq!(faults[0].kind.length(), None, "stays dead");
    }

    #[test]
    fn with_replicas_the_machines_that_lead_are_taken_away() {
        let faults = around_midnight(Timeline::new(1), 1, true);
        let of_machines = faults.iter().filter(|fault| fault.kind.is_of_machine()).count();
        assert_eq!((faults.len(), of_machines), (6, 3));
    }

    #[test]
    fn in_a_short_night_faults_still_show_apart() {
        for compress in [1, 10, 60, 100, 600] {
            let timeline = Timeline::new(compress);
            let faults = around_midnight(timeline, compress, false);
            for pair in faults[1..].windows(2) {
                let over_ns = pair[0].at_ns + nanos(pair[0].kind.length().unwrap());
                assert!(pair[1].at_ns >= over_ns + APART_NS, "/{compress}: {pair:?}");
            }
            let lengths = faults.iter().filter_map(|fault| fault.kind.length());
            assert!(lengths.min().unwrap() >= Duration::from_secs(1), "/{compress}");
            let last = faults.last().unwrap();
            let is_inside = last.at_ns < timeline.at(END_S);
            assert!(is_inside || compress > 100, "/{compress}: {last:?}");
        }
    }
}
