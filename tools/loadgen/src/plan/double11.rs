//! The night of a big sale (Double Eleven, 11 November, Alibaba): a shop's order system as streams
//! and groups, with the load of the hours around midnight.
//!
//! ```text
//!  25 B │           .                          B: the base rate, long before midnight
//!       │          / '--.
//!       │          |     '.  .-.               payments, over what is left of the orders
//!   6 B │          |       ''   '.                          .----
//!   3 B │   .---.  |              '------------.-.------'      timeouts, then the morning
//!       └────────┴─┴───────────────────────────────────────────
//!       -600    -10 0 26 60    322   622      1800       3600     seconds around midnight
//! ```
//!
//! Start reading at [`scenario`]. [`timeline`] has the times and curves, [`faults`] the faults of
//! `break`. Only the two peaks and their times are on record; all other figures here are
//! assumptions, and the report names them as such.
//!
//! Rates are messages per second. Not here: how a run is executed ([`crate::commands::run`]).

pub mod faults;
pub mod timeline;

use std::sync::Arc;
use std::time::Duration;

use ringmq::model::TopicName;

use crate::options::{Double11Options, Night, PEAK_OF_BASE, TargetOptions, header_name};
use crate::plan::curve::{RateCurve, highest};
use crate::plan::double11::timeline::{END_S, FIRST_MINUTE_S, PAYMENTS_S, START_S, Timeline};
use crate::plan::keys::{KeySpace, Keys};
use crate::plan::scenario::{
    Criterion, Fault, Group, LateJoin, Pause, Phase, Scenario, Stream, asked_of_faults,
};
use crate::plan::sizes::Sizes;
use crate::units::{self, grouped};

/// Peak rate of the night as a share of the ceiling that was found.
pub const PEAK_OF_CEILING: f64 = 0.8;
/// Duration of each step of the search.
pub const PROBE: Duration = Duration::from_secs(5);
/// `limits` offers this many times the given peak.
const LIMITS_FACTOR: f64 = 2.0;

/// Shares of the load by stream; they add up to 1.
const ORDERS_AND_TIMEOUTS: f64 = 0.4;
const ORDERS: f64 = ORDERS_AND_TIMEOUTS / (1.0 + UNPAID);
const INVENTORY: f64 = 0.3;
const MARKETING: f64 = 0.1;
const LOGS: f64 = 0.2;
/// Share of the orders that are not paid within half an hour.
const UNPAID: f64 = 0.15;

/// Shares of the producers by stream; orders have the rest.
const PAYMENT_PRODUCERS: f64 = 0.25;
const INVENTORY_PRODUCERS: f64 = 0.2;
const MARKETING_PRODUCERS: f64 = 0.1;
const TIMEOUT_PRODUCERS: f64 = 0.05;
const LOG_PRODUCERS: f64 = 0.1;
/// Share of the producers that connect at the start, and share of the others that join in the last
/// minute; the rest join in the last seconds.
const EARLY: f64 = 0.1;
const LAST_MINUTE: f64 = 0.8;
const LAST_MINUTE_S: (f64, f64) = (-60.0, -5.0);

/// Maximum number of requests that a producer has in flight: about 64 KiB of the shop's messages.
const IN_FLIGHT: u32 = 16;
/// Number of times that a stock client retries a refused message.
const RETRIES: u32 = 2;
/// Log lines per request, and their sizes with weights. The largest batch has 128 KiB.
const LOG_BATCH: u32 = 32;
const LOG_SIZES: [(usize, f64); 3] = [(128, 60.0), (512, 30.0), (4096, 10.0)];

/// Number of sellers and of items, and the skew of their popularity.
const KEYS: u32 = 1_000_000;
const USUAL_EXPONENT: f64 = 1.0;
const FLASH_EXPONENT: f64 = 1.3;

/// Receive rates of slow groups, as multiples of the peak of their streams.
const FULFILMENT_PACE: f64 = 1.2;
const LOGISTICS_PACE: f64 = 0.4;
/// The analytics group stops receiving for this long, once per period.
const BURST_PAUSE_S: f64 = 10.0;
const BURST_EVERY_S: f64 = 60.0;

/// Names of the streams, by stream number.
const STREAMS: [&str; 6] = ["orders", "payments", "inventory", "marketing", "timeouts", "logs"];

/// The night with a peak of `peak` messages per second, for a target of `brokers` brokers.
///
/// Not for `ceiling`, which has no night: see [`mixture`].
pub fn scenario(options: &Double11Options, peak: f64, brokers: u32) -> Scenario {
    let factor = factor(options.night);
    let shop = Shop::new(options, factor * peak / PEAK_OF_BASE, brokers);
    let streams = shop.streams();
    let groups = shop.groups(&streams, 1.0 / factor);
    let compress = options.profile.compress;
    let faults = options.faults();
    let phases = shop.timeline.phases();
    Scenario {
        name: format!("double11 {}", options.night.name()),
        text: format!(
            "peak {}/s at T+26 s, night / {compress}, {} conn x {IN_FLIGHT}, {}",
            grouped((factor * peak) as u64),
            options.profile.connections,
            header_name(options.profile.header.into()),
        ),
        asked: asked(options.night, &phases, &groups, &faults),
        phases,
        streams,
        groups,
        faults,
        assumptions: assumptions(options),
        is_overload: options.night == Night::Limits,
        ..Scenario::frame(&options.process, options.profile.seed, options.profile.arrivals)
    }
}

/// Refuses a peak that no schedule can have.
pub fn check_peak(options: &Double11Options, peak: f64) -> Result<(), String> {
    let too_high =
        |text| format!("{text}, which a night cannot follow: give a lower --peak or --base");
    let rate = factor(options.night) * peak;
    units::scheduled("this night", rate).map(|_| ()).map_err(too_high)
}

/// Offered rate, as a multiple of the given peak.
fn factor(night: Night) -> f64 {
    if night == Night::Limits { LIMITS_FACTOR } else { 1.0 }
}

/// The mixture of messages at the peak, at a constant total rate, for the search for the highest
/// sustained rate. No group is slow, and all producers connect at the start.
pub fn mixture(options: &Double11Options, rate: f64, length: Duration, brokers: u32) -> Scenario {
    let shop = Shop::new(options, rate, brokers);
    let constant = |part: f64| RateCurve::constant(rate * part, length);
    let parts = [ORDERS_AND_TIMEOUTS, 0.0, INVENTORY, MARKETING, 0.0, LOGS];
    let mut streams = shop.streams();
    for (stream, part) in streams.iter_mut().zip(parts) {
        stream.late = None;
        stream.retries = 0;
        stream.curve = Some(Arc::new(constant(part)));
    }
    let mut groups = shop.groups(&streams, 1.0);
    // Payments come in a later wave, and a search does not wait for timeouts, so orders stand in for both;
    // streams without messages are left out.
    let kept: Vec<usize> = (0..streams.len()).filter(|&stream| parts[stream] > 0.0).collect();
    for group in &mut groups {
        (group.rate, group.pauses) = (None, Vec::new());
        let new = |stream: &usize| kept.iter().position(|kept| kept == stream);
        group.streams = group.streams.iter().filter_map(new).collect();
    }
    let streams = kept.iter().map(|&stream| streams[stream].clone()).collect();
    Scenario {
        name: "double11 ceiling".to_owned(),
        text: format!(
            "the mixture of the peak at {}/s, {} s",
            grouped(rate as u64),
            length.as_secs_f64()
        ),
        phases: vec![Phase {
            name: "mixture".to_owned(),
            start_ns: 0,
            end_ns: length.as_nanos() as u64,
            counts: true,
            proves: "one rate of the mixture of the peak".to_owned(),
        }],
        streams,
        groups,
        assumptions: assumptions(options),
        asked: vec![Criterion::NothingLost],
        ..Scenario::frame(&options.process, options.profile.seed, options.profile.arrivals)
    }
}

impl Double11Options {
    /// The target with what this night needs: if a NameServer dies, there is another one.
    pub fn target(&self) -> TargetOptions {
        self.target.with_faults(&self.faults())
    }

    fn faults(&self) -> Vec<Fault> {
        let compress = self.profile.compress;
        let mut faults = match self.night {
            Night::Break => {
                let is_replicated = self.target.replicas.is_some();
                faults::around_midnight(Timeline::new(compress), compress, is_replicated)
            }
            Night::Pulse | Night::Ceiling | Night::Limits => Vec::new(),
        };
        faults.extend(self.target.faults.iter().cloned());
        faults.sort_by_key(|fault| fault.at_ns);
        faults
    }
}

impl Night {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pulse => "pulse",
            Self::Ceiling => "ceiling",
            Self::Limits => "limits",
            Self::Break => "break",
        }
    }
}

/// The shop at a given base rate.
struct Shop<'a> {
    options: &'a Double11Options,
    timeline: Timeline,
    base: f64,
    brokers: u32,
}

impl<'a> Shop<'a> {
    fn new(options: &'a Double11Options, base: f64, brokers: u32) -> Self {
        let timeline = Timeline::new(options.profile.compress);
        Self { options, timeline, base, brokers: brokers.max(1) }
    }

    /// In the order of [`STREAMS`].
    fn streams(&self) -> Vec<Stream> {
        let orders = self.orders();
        let timeouts = self.timeouts(&orders);
        vec![orders, self.payments(), self.inventory(), self.marketing(), timeouts, self.logs()]
    }

    fn orders(&self) -> Stream {
        let others = [
            PAYMENT_PRODUCERS,
            INVENTORY_PRODUCERS,
            MARKETING_PRODUCERS,
            TIMEOUT_PRODUCERS,
            LOG_PRODUCERS,
        ];
        let all = self.options.profile.connections;
        let others: u32 = others.iter().map(|part| self.producers(*part)).sum();
        let sellers = KeySpace::Zipf { exponent: USUAL_EXPONENT, count: KEYS };
        Stream {
            role: "what buyers order; the events of one order must stay in their order".to_owned(),
            curve: self.visitors(ORDERS),
            keys: Keys::Drawn(vec![(0, sellers)]),
            is_ordered: true,
            ..self.stream("orders", all.saturating_sub(others).max(self.brokers))
        }
    }

    fn payments(&self) -> Stream {
        let stands_in = "half-message transactions (98 % commit, 1.5 % rollback, 0.5 % checked)";
        Stream {
            role: "what buyers pay, a wave five minutes after the orders".to_owned(),
            curve: Some(Arc::new(self.timeline.payments(self.base))),
            stands_in_for: Some(stands_in.to_owned()),
            ..self.stream("payments", self.producers(PAYMENT_PRODUCERS))
        }
    }

    fn inventory(&self) -> Stream {
        let zipf = |exponent| KeySpace::Zipf { exponent, count: KEYS };
        let (flash_ns, usual_ns) =
            (self.timeline.at(FIRST_MINUTE_S.0), self.timeline.at(FIRST_MINUTE_S.1));
        let keys = [(0, USUAL_EXPONENT), (flash_ns, FLASH_EXPONENT), (usual_ns, USUAL_EXPONENT)];
        Stream {
            role: "changes of what is in stock; a few items are wanted by everyone".to_owned(),
            curve: self.visitors(INVENTORY),
            keys: Keys::Drawn(keys.map(|(from_ns, exponent)| (from_ns, zipf(exponent))).into()),
            ..self.stream("inventory", self.producers(INVENTORY_PRODUCERS))
        }
    }

    fn marketing(&self) -> Stream {
        Stream {
            role: "who looked at what; sent without asking for an answer, and may be lost"
                .to_owned(),
            curve: self.visitors(MARKETING),
            is_one_way: true,
            retries: 0,
            ..self.stream("marketing", self.producers(MARKETING_PRODUCERS))
        }
    }

    fn timeouts(&self, orders: &Stream) -> Stream {
        let orders = orders.curve.as_ref().expect("orders have a curve");
        Stream {
            role: "orders not paid within half an hour, which are to be cancelled".to_owned(),
            curve: Some(Arc::new(self.timeline.unpaid(orders, UNPAID))),
            delay_ms: self.timeline.unpaid_ms(),
            ..self.stream("timeouts", self.producers(TIMEOUT_PRODUCERS))
        }
    }

    fn logs(&self) -> Stream {
        Stream {
            role: "what the shop's servers write down, many lines to a request".to_owned(),
            curve: self.visitors(LOGS),
            sizes: Sizes::mixed(&LOG_SIZES),
            batch: LOG_BATCH,
            ..self.stream("logs", self.producers(LOG_PRODUCERS))
        }
    }

    /// A stream with defaults.
    fn stream(&self, name: &str, connections: u32) -> Stream {
        let topic = TopicName::new(format!("double11-{name}")).expect("the name is legal");
        let is_retried = matches!(self.options.night, Night::Pulse | Night::Break);
        Stream {
            name: name.to_owned(),
            role: String::new(),
            topics: vec![topic],
            queues: self.options.profile.queues,
            header: self.options.profile.header.into(),
            curve: None,
            sizes: Sizes::shop(),
            batch: 1,
            connections,
            late: late(connections, self.brokers, self.timeline),
            in_flight: IN_FLIGHT,
            keys: Keys::None,
            is_ordered: false,
            is_one_way: false,
            retries: if is_retried { RETRIES } else { 0 },
            delay_ms: 0,
            stands_in_for: None,
        }
    }

    fn visitors(&self, part: f64) -> Option<Arc<RateCurve>> {
        Some(Arc::new(self.timeline.visitors(self.base * part)))
    }

    /// Each broker has a producer of each stream; otherwise its queues would stay empty.
    fn producers(&self, part: f64) -> u32 {
        let all = f64::from(self.options.profile.connections);
        ((all * part).round() as u32).max(self.brokers)
    }

    /// The groups. `factor` scales the receive rates that the load of `streams` implies.
    fn groups(&self, streams: &[Stream], factor: f64) -> Vec<Group> {
        let indexes = |names: &[&str]| -> Vec<usize> {
            let index = |name: &&str| STREAMS.iter().position(|stream| stream == name);
            names.iter().filter_map(index).collect()
        };
        let pace = |part: f64, indexes: &[usize]| {
            let curves = indexes.iter().filter_map(|&index| streams[index].curve.as_deref());
            Some(part * factor * highest(&curves.collect::<Vec<_>>()))
        };
        let cache = |number: u32| Group {
            name: format!("cache-{number}"),
            role: "a web server's copy of the stock; each of them takes every change".to_owned(),
            streams: indexes(&["inventory"]),
            rate: None,
            pauses: Vec::new(),
            members: self.options.profile.consumers,
        };
        let (all, shipped) = (indexes(&STREAMS), indexes(&["orders", "payments"]));
        vec![
            Group {
                name: "fulfilment".to_owned(),
                role: "the shop itself: acts on everything, a little faster than the peak"
                    .to_owned(),
                rate: pace(FULFILMENT_PACE, &all),
                streams: all,
                pauses: Vec::new(),
                members: self.options.profile.consumers,
            },
            Group {
                name: "logistics".to_owned(),
                role: "parcels: slower than the peak, and down while the payments come".to_owned(),
                rate: pace(LOGISTICS_PACE, &shipped),
                streams: shipped,
                pauses: vec![self.pause(PAYMENTS_S.0, PAYMENTS_S.2, true)],
                members: self.options.profile.consumers,
            },
            Group {
                name: "analytics".to_owned(),
                role: "reports: takes what has come in bursts, between long calculations"
                    .to_owned(),
                streams: indexes(&["orders", "payments", "inventory"]),
                rate: None,
                pauses: self.bursts(),
                members: self.options.profile.consumers,
            },
            cache(1),
            cache(2),
        ]
    }

    fn bursts(&self) -> Vec<Pause> {
        let count = ((END_S - START_S) / BURST_EVERY_S) as u32;
        let pause = |number| {
            let to_s = START_S + f64::from(number) * BURST_EVERY_S;
            self.pause(to_s - BURST_PAUSE_S, to_s, false)
        };
        (1..=count).map(pause).collect()
    }

    fn pause(&self, from_s: f64, to_s: f64, is_down: bool) -> Pause {
        Pause { from_ns: self.timeline.at(from_s), to_ns: self.timeline.at(to_s), is_down }
    }
}

/// The connection storm before midnight: when each of the late ones among `connections` producers
/// joins. Each broker has a producer from the start.
fn late(connections: u32, brokers: u32, timeline: Timeline) -> Option<LateJoin> {
    let early = ((f64::from(connections) * EARLY).ceil() as u32).max(brokers);
    let late = connections.saturating_sub(early);
    let last_minute = (f64::from(late) * LAST_MINUTE).round() as u32;
    let evenly = |count: u32, from_s: f64, to_s: f64| {
        (0..count).map(move |number| {
            timeline.at(from_s + f64::from(number) / f64::from(count) * (to_s - from_s))
        })
    };
    let (from_s, to_s) = LAST_MINUTE_S;
    let joins_ns: Vec<u64> =
        evenly(last_minute, from_s, to_s).chain(evenly(late - last_minute, to_s, 0.0)).collect();
    (late > 0).then(|| LateJoin { joins_ns, loaded_from_ns: timeline.at(0.0) })
}

/// The thresholds of this night.
fn asked(night: Night, phases: &[Phase], groups: &[Group], faults: &[Fault]) -> Vec<Criterion> {
    let phase = |name| phases.iter().position(|phase| phase.name == name).unwrap_or(0);
    let logistics = groups.iter().position(|group| group.name == "logistics").unwrap_or(0);
    let steady = phase("small hours");
    let mut asked = vec![
        Criterion::NothingLost,
        Criterion::TailWithin { phase: phase("step"), beside: steady, factor: 10.0 },
        Criterion::TailBack {
            after: phase("plateau"),
            beside: steady,
            factor: 1.2,
            within: Duration::from_secs(5),
        },
        Criterion::AnsweredWithin {
            phase: steady,
            part: 0.9999,
            within: Duration::from_millis(10),
        },
        Criterion::Drain { group: logistics, factor: 2.0 },
    ];
    match night {
        Night::Pulse | Night::Ceiling => asked.push(Criterion::Refused { part_max: 0.001 }),
        Night::Break => asked.extend(asked_of_faults(faults)),
        Night::Limits => {}
    }
    asked
}

/// Assumptions that a reader could mistake for facts.
fn assumptions(options: &Double11Options) -> Vec<String> {
    let mut all = vec![
        "on record: orders peak 26 s after midnight (2020), payments after 322 s (2017)",
        "assumed: all other rates and times of the night, as multiples of a base rate",
        "assumed: 40 % orders and their timeouts, 30 % inventory, 20 % logs, 10 % marketing",
        "assumed: sellers by Zipf 1.0, items by Zipf 1.3 in the first minute, of 1,000,000 each",
        "assumed: sizes from 128 B to 1 MiB, 3 KiB on average, half compressible",
        "assumed: 15 % of the orders are not paid within half an hour",
        "payments are ordinary messages in the place of half-message transactions",
        "timeouts are sent with their orders, and the broker delays them by half an hour",
        "the two caches are groups of their own in the place of a broadcasting group",
    ];
    if options.profile.compress > 1 {
        all.push("the night is compressed: all but the second after midnight takes less time");
    }
    match options.night {
        Night::Pulse | Night::Ceiling => {}
        Night::Limits => all.extend([
            "the load is twice the peak that was given, and refused messages are not tried again",
            "the broker has no quotas yet: the excess meets its own back-pressure",
        ]),
        Night::Break => all.extend([
            "faults last a second or more and come one by one, however short the night",
            "without --replicas, the broker itself is killed, and no replica is cut off",
        ]),
    }
    all.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
