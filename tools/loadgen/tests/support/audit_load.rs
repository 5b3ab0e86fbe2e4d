//! The audit's view of a run, without a broker: producers whose messages are acknowledged, groups
//! that receive them, and planted losses and duplicates in each group.
//!
//! Used by a test with few messages and by a benchmark with many.

use std::iter::Peekable;

use loadgen::engine::audit::{Arrived, Audit, Outcomes};
use loadgen::engine::payload::Identity;
use loadgen::plan::schedule::SplitMix64;

const RUN: u64 = 1;
/// Number of consecutive messages of one producer, which are acknowledged in reverse order.
const WINDOW: u64 = 64;

pub struct Load {
    /// A multiple of the window size times the number of producers.
    pub messages: u64,
    pub producers: u32,
    pub groups: u32,
    /// Number of losses, and of duplicates, in each group.
    pub planted: u64,
    /// One message in this many is never answered and never arrives, so that every chunk of every
    /// set is mixed. Must be even. `None`: all are answered.
    pub gap_every: Option<u64>,
}

impl Load {
    /// The expected audit of each group.
    pub fn expected(&self) -> Audit {
        let gaps = self.gap_every.map_or(0, |every| self.messages.div_ceil(every));
        Audit {
            acknowledged: self.messages - gaps,
            lost: self.planted,
            duplicated: self.planted,
            unknown_absent: gaps,
            ..Audit::default()
        }
    }

    /// Runs the load through the audit; returns what each group found.
    pub fn carry_out(&self) -> Vec<Audit> {
        let numbers: Vec<(u16, u32)> = (0..self.producers).map(|number| (0, number)).collect();
        let mut outcomes: Vec<Outcomes> =
            numbers.iter().map(|(stream, number)| Outcomes::of(*stream, *number)).collect();
        let mut groups: Vec<Group> = (0..self.groups)
            .map(|group| Group::new(self, group, Arrived::new(RUN, &numbers)))
            .collect();
        for start in (0..self.messages).step_by(WINDOW as usize) {
            for message in (start..start + WINDOW).rev().filter(|it| !self.is_gap(*it)) {
                let (producer, sequence) = self.place(message);
                outcomes[producer as usize].acknowledge(sequence..sequence + 1);
            }
            for group in &mut groups {
                (start..start + WINDOW).for_each(|message| group.handle(self, message));
            }
        }
        for sent in &mut outcomes {
            sent.sent = self.messages / u64::from(self.producers);
        }
        groups.into_iter().map(|group| group.finish(self, &outcomes)).collect()
    }

    fn is_gap(&self, message: u64) -> bool {
        self.gap_every.is_some_and(|every| message.is_multiple_of(every))
    }

    /// Producer and sequence number of a message of the run.
    fn place(&self, message: u64) -> (u32, u64) {
        let (window, at) = (message / WINDOW, message % WINDOW);
        let producers = u64::from(self.producers);
        ((window % producers) as u32, window / producers * WINDOW + at)
    }

    /// Planted messages, ascending: one in the given half of each stretch of the run, and never
    /// a gap.
    fn planted(&self, seed: u32, is_second_half: bool) -> impl Iterator<Item = u64> + use<> {
        let stretch = self.messages / self.planted;
        let half = stretch / 2;
        let mut random = SplitMix64::of(1, seed);
        (0..self.planted).map(move |number| {
            let start = number * stretch + if is_second_half { half } else { 0 };
            (start + random.number() % (half - 1)) | 1
        })
    }
}

type Planted = Peekable<Box<dyn Iterator<Item = u64>>>;

struct Group {
    arrived: Arrived,
    lost: Planted,
    /// Duplicates, which arrive a second time later in the run.
    repeated: Planted,
}

impl Group {
    fn new(load: &Load, group: u32, arrived: Arrived) -> Self {
        let planted = |seed, is_second_half| {
            let all: Box<dyn Iterator<Item = u64>> = Box::new(load.planted(seed, is_second_half));
            all.peekable()
        };
        Self { arrived, lost: planted(2 * group, false), repeated: planted(2 * group + 1, true) }
    }

    fn handle(&mut self, load: &Load, message: u64) {
        let is_lost = self.lost.next_if_eq(&message).is_some();
        if !is_lost && !load.is_gap(message) {
            self.take(load, message);
        }
        let later = load.messages / 10;
        if let Some(again) = self.repeated.next_if(|it| it + later <= message) {
            self.take(load, again);
        }
    }

    fn take(&mut self, load: &Load, message: u64) {
        let (producer, sequence) = load.place(message);
        let identity = Identity { run: RUN, stream: 0, lane: 0, producer, sequence, due_ns: 0 };
        self.arrived.take(0, &identity);
    }

    fn finish(mut self, load: &Load, outcomes: &[Outcomes]) -> Audit {
        while let Some(again) = self.repeated.next() {
            self.take(load, again);
        }
        self.arrived.reconcile(outcomes, |_| true)[&0]
    }
}
