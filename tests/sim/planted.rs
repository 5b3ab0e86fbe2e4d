//! Planted bugs ([`ringmq::planted`]): the simulations find every one of them.
//!
//! [`TABLE`] lists for each bug what finds it: a seed of a simulation, or a test that makes one
//! thing go wrong. Seeds change with the code; if the one in the table no longer finds the bug,
//! another one of the first thousand must, and it is printed. `RINGMQ_BUGS=A,B` plants only these.

use std::time::Instant;

use ringmq::planted::{self, Bug};

use super::cluster::{self, shrink::fails};
use super::storage::{crash, faults, recovery};

/// What finds a bug.
#[derive(Clone, Copy)]
enum Finder {
    Seeds(Simulation, u64),
    Test(fn()),
}

/// A simulation that a seed determines.
#[derive(Clone, Copy, Debug)]
enum Simulation {
    /// Three replicas and their clients.
    Cluster,
    /// A log and power cuts.
    PowerCuts,
    /// As [`Self::PowerCuts`], while retention recycles the log's files.
    Recycling,
    /// As [`Self::PowerCuts`], with a log whose end is also cut off while it runs.
    Cuts,
}

use Finder::{Seeds, Test};
use Simulation::{Cluster, Cuts, PowerCuts, Recycling};

const SEEDS_MAX: u64 = 1_000;

const TABLE: &[(Bug, Finder)] = &[
    (Bug::AcknowledgesOnOneCopy, Seeds(Cluster, 0)),
    (Bug::AcceptsOldTerms, Seeds(Cluster, 115)),
    (Bug::ForgetsVotes, Seeds(Cluster, 0)),
    (Bug::StoresCommittedVotesOnly, Seeds(Cluster, 1)),
    (Bug::LeadsWithoutMajority, Seeds(Cluster, 0)),
    (Bug::CutsOneEntryTooFew, Seeds(Cluster, 14)),
    (Bug::CutsOneEntryTooMany, Seeds(Cluster, 14)),
    (Bug::LeavesCutsOnDisk, Seeds(Cuts, 0)),
    (Bug::ForgetsCuts, Seeds(Cluster, 76)),
    (Bug::AnswersBeforeFlush, Seeds(Cluster, 5)),
    (Bug::ShowsUncommitted, Seeds(Cluster, 14)),
    (Bug::PublishesSnapshotsEarly, Seeds(Cluster, 40)),
    (Bug::KeepsStateOfLeading, Seeds(Cluster, 188)),
    (Bug::StoresAsFollower, Seeds(Cluster, 2)),
    (Bug::AnswersWithoutLease, Seeds(Cluster, 171)),
    (Bug::AnswersBeforeItsFirstEntry, Seeds(Cluster, 60)),
    (Bug::SkipsChecksums, Seeds(PowerCuts, 11)),
    (Bug::TakesStaleEntries, Seeds(Recycling, 59)),
    (
        Bug::IgnoresOrdinals,
        Test(recovery::the_next_ordinal_reveals_a_block_that_reverted_to_an_earlier_life),
    ),
    (Bug::ForgetsDirectories, Seeds(PowerCuts, 1)),
    (Bug::PublishesUnsynced, Seeds(Recycling, 0)),
    (Bug::SkipsFlushes, Seeds(PowerCuts, 0)),
    (Bug::GoesOnAfterFailedWrites, Seeds(PowerCuts, 5)),
    (Bug::RetriesFailedFlushes, Test(faults::a_failing_background_flush_closes_the_log)),
    (Bug::CountsWritesOutOfOrder, Seeds(PowerCuts, 1)),
    (Bug::SharesBlocksBetweenWrites, Seeds(PowerCuts, 1)),
    (
        Bug::TakesDamageForATornTail,
        Test(recovery::rot_in_the_middle_is_quarantined_and_the_rest_is_served),
    ),
    (Bug::LeavesTornTails, Seeds(Cuts, 136)),
    (Bug::LosesTheLastIndexEntry, Seeds(PowerCuts, 0)),
    (
        Bug::IndexesUnsyncedSegments,
        Test(faults::no_index_file_is_written_before_its_segment_is_on_stable_media),
    ),
    (
        Bug::SkipsSnapshotChecksums,
        Test(recovery::an_older_snapshot_replaces_a_damaged_or_unreadable_one),
    ),
    (Bug::DeletesWhatRecoveryNeeds, Seeds(Recycling, 17)),
];

impl Simulation {
    fn run(self, seed: u64) {
        match self {
            Self::Cluster => drop(cluster::simulate(seed)),
            Self::PowerCuts => crash::power_cuts(seed),
            Self::Recycling => crash::recycling(seed),
            Self::Cuts => crash::cuts(seed),
        }
    }

    /// Returns the first seed that finds the bug, starting with the known one.
    fn find(self, bug: Bug, known: u64) -> Option<u64> {
        let fails = |seed: u64| fails(|| planted::with(bug, || self.run(seed)));
        std::iter::once(known).chain(0..SEEDS_MAX).find(|&seed| fails(seed))
    }
}

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("RINGMQ_BUGS").ok();
    let is_chosen = |bug: Bug| {
        let name = format!("{bug:?}");
        only.as_ref().is_none_or(|only| only.split(',').any(|chosen| chosen == name))
    };
    let mut missed = Vec::new();
    for &(bug, finder) in TABLE.iter().filter(|(bug, _)| is_chosen(*bug)) {
        let began = Instant::now();
        let found = match finder {
            Seeds(simulation, known) => {
                let seed = simulation.find(bug, known);
                seed.map(|seed| format!("{simulation:?}, seed {seed} (known: {known})"))
            }
            Test(test) => {
                fails(|| planted::with(bug, test)).then(|| "a test of its own".to_owned())
            }
        };
        eprintln!("{bug:?}: {} in {:?}", found.as_deref().unwrap_or("MISSED"), began.elapsed());
        if found.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "nothing finds {missed:?}");
}

#[test]
fn every_bug_is_in_the_table_once() {
    for (place, (bug, _)) in TABLE.iter().enumerate() {
        assert_eq!(*bug as usize, place, "{bug:?} is out of order, or one before it is missing");
    }
    assert_eq!(TABLE.len(), planted::COUNT);
}
