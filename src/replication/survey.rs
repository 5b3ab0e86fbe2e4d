//! The state of the replicas of a shard, as this one sees it.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use super::host::Host;
use super::replica::Replica;
use super::types::{LogId, ReplicaId, Runtime, Types};
use crate::model::LogOffset;
use crate::model::replicas::{ReplicaLag, ReplicaSet, ReplicaState};

impl<H: Host, R: Runtime> Replica<H, R> {
    /// The state of the replicas. Only a leader knows that of the others.
    pub fn survey(&self) -> ReplicaSet {
        let broker = self.log().host().broker();
        let now = self.log().host().now().moment;
        let (end, mut lowest) = (broker.raft_end(), broker.raft_end());
        let ends = &mut *self.ends().borrow_mut();
        let metrics = self.engine().metrics();
        let metrics = metrics.borrow_watched();
        let leads = self.log().leads_in().is_some();
        if leads {
            ends.note(now, end)
        } else {
            ends.clear()
        }
        let mut lag_of = |id: ReplicaId| {
            let matched = metrics.replication.as_ref()?.get(&id)?;
            let at = self.end_of(matched.as_ref());
            lowest = lowest.min(at);
            let answered_at = metrics.heartbeat.as_ref().and_then(|all| all.get(&id)).copied()?;
            let silence = |at| Types::<R>::now().saturating_duration_since(at);
            Some(ReplicaLag {
                bytes: end.0.saturating_sub(at.0),
                ms: ends.age_ms(at, now),
                silent_ms: answered_at.map(|at| millis(silence(*at))),
            })
        };
        let membership = metrics.membership_config.membership();
        let voters: Vec<ReplicaId> = membership.voter_ids().collect();
        let mut ids: Vec<ReplicaId> = membership.nodes().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let state = |id| {
            let own = ReplicaLag { silent_ms: Some(0), ..ReplicaLag::default() };
            let lag = match (leads, id == self.id()) {
                (false, _) => None,
                (true, true) => Some(own),
                (true, false) => lag_of(id).or(Some(ReplicaLag::default())),
            };
            let address = self.log().host().address_of(id);
            let (is_voter, is_full) = (voters.contains(&id), self.log().is_full(id));
            ReplicaState { id, address, is_voter, is_full, lag }
        };
        let replicas: Vec<ReplicaState> = ids.into_iter().map(state).collect();
        ends.forget_below(lowest);
        let leader = if leads { Some(self.id()) } else { metrics.current_leader };
        ReplicaSet { id: self.id(), leader, term: metrics.current_term, replicas }
    }

    /// The end of the log of a replica whose last entry this is.
    fn end_of(&self, last: Option<&LogId>) -> LogOffset {
        let Some(last) = last else { return LogOffset(0) };
        self.log().host().broker().with_raft_entries(|entries| {
            let place = entries.place(last.index).or_else(|| entries.place_before(last.index));
            place.map_or(LogOffset(0), |place| place.end)
        })
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
