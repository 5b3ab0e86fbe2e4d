//! Decides which replica should lead, and when: leaders are spread over the machines, and return to
//! them after a failure.
//!
//! Shard k prefers the voter with index k modulo the number of voters, ordered by replica number.
//! If another replica is preferred, the leader transfers its leadership once that replica has been
//! ready for [`STEADY_MS`] without a break. A leader that an operator has chosen stays.
//!
//! A leader whose disk is full transfers to a replica that can store messages, regardless of which
//! one is preferred or chosen.

use super::types::ReplicaId;
use crate::model::replicas::{ReplicaSet, ReplicaState};
use crate::model::{Moment, ShardId};

/// How long the preferred replica must have answered without being far behind. Long enough for one
/// that starts, falls behind or fails again to show it, so that the leadership does not flap.
pub const STEADY_MS: u64 = 10_000;
/// How long the disk of a leader must have been full. Retention may be about to make room.
pub const FULL_MS: u64 = 1_000;
/// Pause between attempts.
const RETRY_MS: u64 = 30_000;
/// The same if the disk of the leader is full, so that it can do nothing else.
const RETRY_FULL_MS: u64 = 3_000;
/// A replica that is missing at most this many bytes may become leader: it gets the rest while the
/// leader waits.
pub const LACK_MAX: u64 = 4 << 20;

/// Why a leader transfers its leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferReason {
    /// An operator ordered it. The next leader keeps the leadership.
    Ordered,
    /// The other replica is preferred.
    Preferred,
    /// The disk of this one is full.
    Full,
    /// This one is shutting down.
    Stopping,
}

#[derive(Debug, Default)]
pub struct Preference {
    /// The preferred replica, and since when it could have led.
    steady: Option<(ReplicaId, Moment)>,
    /// Since when the disk of this leader has been full.
    full_since: Option<Moment>,
    pause_until: Option<Moment>,
    pause_full_until: Option<Moment>,
}

/// The replica that should lead a shard.
pub fn preferred(shard: ShardId, voters: &[ReplicaId]) -> Option<ReplicaId> {
    voters.get(usize::from(shard.0) % voters.len().max(1)).copied()
}

/// Whether a replica could lead now, and if not, why.
pub fn readiness(replica: &ReplicaState) -> Result<(), String> {
    let Some(lag) = replica.lag else { return Err("this is not the leader".into()) };
    match lag.silent_ms {
        None => Err("it has not answered the leader yet".into()),
        Some(ms) if !lag.is_reachable() => Err(format!("it has not answered for {ms} ms")),
        _ if lag.bytes > LACK_MAX => Err(format!("it is {} bytes behind", lag.bytes)),
        _ => Ok(()),
    }
}

/// Whether the replica could lead and store messages.
fn could_store(replica: &ReplicaState) -> bool {
    !replica.is_full && readiness(replica).is_ok()
}

/// The replica that should lead when this one shuts down: the first that could, starting at the
/// preferred one; one with a full disk only if there is no other.
pub fn successor(shard: ShardId, set: &ReplicaSet) -> Option<ReplicaId> {
    let first = |could_lead| first_other(shard, set, could_lead);
    first(could_store).or_else(|| first(|replica| readiness(replica).is_ok()))
}

fn first_other(
    shard: ShardId,
    set: &ReplicaSet,
    could_lead: fn(&ReplicaState) -> bool,
) -> Option<ReplicaId> {
    let voters = set.voters();
    let start = voters.iter().position(|id| Some(*id) == preferred(shard, &voters))?;
    let is_wanted = |id: &ReplicaId| *id != set.id && set.replica(*id).is_some_and(could_lead);
    voters[start..].iter().chain(&voters[..start]).copied().find(is_wanted)
}

impl Preference {
    /// Evaluates the replicas as the leader sees them. `is_chosen`: an operator has moved the
    /// leadership here. Returns the replica to transfer the leadership to, if any, and why.
    pub fn handle(
        &mut self,
        shard: ShardId,
        set: &ReplicaSet,
        is_chosen: bool,
        now: Moment,
    ) -> Option<(ReplicaId, TransferReason)> {
        let is_over = |pause: Option<Moment>| pause.is_none_or(|until| until <= now);
        let to_other = self.instead_of_full(shard, set, now);
        let to_preferred = self.steady_preferred(shard, set, now).filter(|_| !is_chosen);
        if let Some(other) = to_other.filter(|_| is_over(self.pause_full_until)) {
            self.pause_full_until = Some(now.plus_ms(RETRY_FULL_MS));
            return Some((other, TransferReason::Full));
        }
        let preferred = to_preferred.filter(|_| is_over(self.pause_until))?;
        self.pause_until = Some(now.plus_ms(RETRY_MS));
        Some((preferred, TransferReason::Preferred))
    }

    /// The replica to lead instead of this one, whose disk has been full for [`FULL_MS`], if there
    /// is one with space.
    fn instead_of_full(
        &mut self,
        shard: ShardId,
        set: &ReplicaSet,
        now: Moment,
    ) -> Option<ReplicaId> {
        let is_full = set.leads() && set.replica(set.id).is_some_and(|own| own.is_full);
        self.full_since = is_full.then(|| self.full_since.unwrap_or(now));
        let since = self.full_since?;
        (now.ms_since(since) >= FULL_MS).then(|| first_other(shard, set, could_store))?
    }

    /// The preferred replica, if it is another one and could have led for a while.
    fn steady_preferred(
        &mut self,
        shard: ShardId,
        set: &ReplicaSet,
        now: Moment,
    ) -> Option<ReplicaId> {
        let preferred = preferred(shard, &set.voters()).filter(|id| set.leads() && *id != set.id);
        let could_lead = |id: &ReplicaId| set.replica(*id).is_some_and(could_store);
        let Some(preferred) = preferred.filter(could_lead) else {
            self.steady = None;
            return None;
        };
        let since = match self.steady {
            Some((id, since)) if id == preferred => since,
            _ => now,
        };
        self.steady = Some((preferred, since));
        (now.ms_since(since) >= STEADY_MS).then_some(preferred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::replicas::ReplicaLag;

    const READY: ReplicaLag = ReplicaLag { bytes: 0, ms: 0, silent_ms: Some(20) };

    /// A set with these lags of replicas 1, 2, …; `id` leads.
    fn set(id: ReplicaId, lags: &[ReplicaLag]) -> ReplicaSet {
        let state = |(id, lag): (ReplicaId, &ReplicaLag)| {
            let lag = Some(*lag);
            ReplicaState { id, address: None, is_voter: true, is_full: false, lag }
        };
        let replicas = (1..).zip(lags).map(state).collect();
        ReplicaSet { id, leader: Some(id), term: 3, replicas }
    }

    /// When the leader transfers its leadership, and to which replica, if the set stays as it is.
    fn handed_over(shard: u16, set: &ReplicaSet) -> Option<(u64, ReplicaId)> {
        let mut preference = Preference::default();
        let look = |at| {
            let (to, reason) = preference.handle(ShardId(shard), set, false, Moment(at))?;
            assert_eq!(reason, TransferReason::Preferred);
            Some((at, to))
        };
        (0..=2 * STEADY_MS).step_by(100).find_map(look)
    }

    #[test]
    fn shards_prefer_the_replicas_in_turn() {
        let voters = [1, 4, 7];
        let found: Vec<_> = (0..5).filter_map(|k| preferred(ShardId(k), &voters)).collect();
        assert_eq!(found, [1, 4, 7, 1, 4]);
        assert_eq!(preferred(ShardId(3), &[]), None);
    }

    #[test]
    fn a_leader_hands_over_to_the_preferred_replica_once_that_is_steady() {
        let silent = ReplicaLag { silent_ms: Some(1_000), ..READY };
        let new = ReplicaLag { silent_ms: None, ..READY };
        let behind = ReplicaLag { bytes: LACK_MAX + 1, ..READY };
        let all = [READY; 3];
        let cases = [
            ("another one leads", 0, set(2, &all), Some((STEADY_MS, 1))),
            ("of another shard", 1, set(1, &all), Some((STEADY_MS, 2))),
            ("the preferred one leads", 1, set(2, &all), None),
            ("it is silent", 0, set(2, &[silent, READY, READY]), None),
            ("it has not answered", 0, set(2, &[new, READY, READY]), None),
            ("it is behind", 0, set(2, &[behind, READY, READY]), None),
            ("a third one is silent", 0, set(2, &[READY, READY, silent]), Some((STEADY_MS, 1))),
        ];
        for (what, shard, set, expected) in cases {
            assert_eq!(handed_over(shard, &set), expected, "{what}");
        }
        let follower = ReplicaSet { leader: Some(1), ..set(2, &all) };
        assert_eq!(handed_over(0, &follower), None, "it does not lead");
        let mut learner = set(2, &all);
        learner.replicas[0].is_voter = false;
        assert_eq!(handed_over(0, &learner), None, "replica 2 is the first voter");
    }

    #[test]
    fn a_break_begins_the_wait_anew_and_attempts_are_rare() {
        let (all, silent) = ([READY; 3], ReplicaLag { silent_ms: Some(5_000), ..READY });
        let mut preference = Preference::default();
        let mut look = |at, lags: &[ReplicaLag]| {
            preference.handle(ShardId(0), &set(2, lags), false, Moment(at)).is_some()
        };
        assert!(!look(0, &all));
        assert!(!look(STEADY_MS - 1, &[silent, READY, READY]));
        assert!(!look(STEADY_MS, &all));
        assert!(look(2 * STEADY_MS, &all));
        assert!(!look(2 * STEADY_MS + RETRY_MS - 1, &all));
        assert!(look(2 * STEADY_MS + RETRY_MS, &all));
    }

    #[test]
    fn a_leader_whose_disk_is_full_hands_over_to_one_whose_disk_is_not() {
        let behind = ReplicaLag { bytes: LACK_MAX + 1, ..READY };
        let cases = [
            ("it is full", vec![1], [READY; 3], Some(2)),
            ("the next one is full too", vec![1, 2], [READY; 3], Some(3)),
            ("the next one is behind", vec![1], [READY, behind, READY], Some(3)),
            ("all are full", vec![1, 2, 3], [READY; 3], None),
            ("another one is full", vec![2], [READY; 3], None),
        ];
        for (what, full, lags, expected) in cases {
            let mut set = set(1, &lags);
            set.replicas.iter_mut().for_each(|one| one.is_full = full.contains(&one.id));
            let mut preference = Preference::default();
            let mut look = |at| preference.handle(ShardId(0), &set, true, Moment(at));
            assert_eq!(look(0), None, "{what}");
            assert_eq!(look(FULL_MS - 1), None, "{what}");
            let expected = expected.map(|id| (id, TransferReason::Full));
            assert_eq!(look(FULL_MS), expected, "{what}: although it was chosen");
        }
    }

    #[test]
    fn a_full_disk_keeps_a_leader_from_returning() {
        let mut set = set(2, &[READY; 3]);
        set.replicas[0].is_full = true;
        assert_eq!(handed_over(0, &set), None);
        set.replicas[0].is_full = false;
        assert_eq!(handed_over(0, &set), Some((STEADY_MS, 1)));
    }

    #[test]
    fn who_stops_hands_over_to_a_full_disk_only_if_there_is_no_other() {
        let successor_of = |full: &[ReplicaId]| {
            let mut set = set(1, &[READY; 3]);
            set.replicas.iter_mut().for_each(|one| one.is_full = full.contains(&one.id));
            successor(ShardId(0), &set)
        };
        assert_eq!([&[][..], &[2], &[2, 3]].map(successor_of), [Some(2), Some(3), Some(2)]);
    }

    #[test]
    fn a_full_leader_tries_again_soon() {
        let mut set = set(1, &[READY; 3]);
        set.replicas[0].is_full = true;
        let mut preference = Preference::default();
        let mut look = |at| preference.handle(ShardId(0), &set, false, Moment(at)).is_some();
        let again = FULL_MS + RETRY_FULL_MS;
        assert_eq!([0, FULL_MS, again - 1, again].map(&mut look), [false, true, false, true]);
    }
}
