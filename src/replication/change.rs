//! Changes the members of a shard's replica set, one replica at a time.
//!
//! ```text
//!   add:     not a member ─▶ gets the log, does not count ─▶ has caught up ─▶ counts for the majority
//!   remove:  counts ─▶ not a member
//! ```
//!
//! Every arrow is one or two entries of the log, so it has happened or not, no matter what stops
//! meanwhile. Both operations are idempotent and are repeated until they succeed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::type_config::TypeConfigExt;

use super::host::Host;
use super::replica::{LAG_MAX, Replica};
use super::types::{Place, ReplicaId, Runtime, Types};
use crate::model::replicas::{ReplicaLag, ReplicaState};
use crate::model::{Refusal, ShardId};

/// When an operator may try again, while another change is in progress, ms.
const RETRY_AFTER_MS: u64 = 500;
/// How long the members may take to agree to a change.
const AGREE_MAX: Duration = Duration::from_secs(5);

/// Why the members were not changed, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this replica does not lead")]
    NotLeader,
    #[error("another change of the members is in progress")]
    InProgress,
    /// It is a member, but does not count yet.
    #[error("replica {replica} does not vote yet: {why}")]
    CatchingUp { replica: ReplicaId, why: String },
    #[error("{needed} of replicas {rest:?} must run, but {silent:?} do not answer")]
    LosesMajority {
        replica: ReplicaId,
        needed: usize,
        rest: Vec<ReplicaId>,
        silent: Vec<ReplicaId>,
    },
    #[error("replica {0} leads; let another one lead first")]
    Leads(ReplicaId),
    #[error("replica {0} is the only one")]
    Last(ReplicaId),
    #[error("the replicas have not agreed to the change in time; it may still happen")]
    Unknown,
}

impl ChangeError {
    /// The refusal that the operator gets.
    pub fn refusal(self, shard: ShardId) -> Refusal {
        match self {
            Self::NotLeader => Refusal::NotLeader { shard: shard.0 },
            Self::InProgress => Refusal::Busy {
                reason: "replica_change",
                wait_ms: 0,
                retry_after_ms: RETRY_AFTER_MS,
                shard: shard.0,
            },
            Self::CatchingUp { replica, why } => Refusal::CatchingUp { replica, why },
            Self::LosesMajority { replica, .. } => {
                Refusal::LosesMajority { replica, why: self.to_string() }
            }
            Self::Last(replica) => Refusal::LosesMajority { replica, why: self.to_string() },
            Self::Leads(replica) => Refusal::LeaderStays { replica },
            Self::Unknown => Refusal::OutcomeUnknown,
        }
    }
}

/// The members and their state, as the leader sees them.
struct View {
    configs: usize,
    voters: BTreeSet<ReplicaId>,
    members: BTreeSet<ReplicaId>,
    /// How many entries each is missing.
    lacks: BTreeMap<ReplicaId, u64>,
    /// Members that have not answered recently.
    silent: BTreeSet<ReplicaId>,
}

impl<H: Host, R: Runtime> Replica<H, R> {
    /// Makes a replica a member. Until it has caught up, it only receives the log: repeat the call.
    pub async fn add(&self, id: ReplicaId, place: Place) -> Result<(), ChangeError> {
        let view = self.view().ok_or(ChangeError::NotLeader)?;
        if view.voters.contains(&id) && view.configs == 1 {
            return Ok(());
        }
        if !view.members.contains(&id) {
            let nodes = BTreeMap::from([(id, place)]);
            self.change(ChangeMembers::AddNodes(nodes)).await?;
        }
        self.check_caught_up(id)?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    fn check_caught_up(&self, id: ReplicaId) -> Result<(), ChangeError> {
        let view = self.view().ok_or(ChangeError::NotLeader)?;
        let why = match view.lacks.get(&id) {
            _ if view.silent.contains(&id) => "it does not answer".to_owned(),
            Some(lacks) if *lacks <= LAG_MAX => return Ok(()),
            Some(lacks) => format!("it is {lacks} entries behind"),
            None => "it has none of it yet".to_owned(),
        };
        Err(ChangeError::CatchingUp { replica: id, why })
    }

    /// Removes a replica from the members. Refused if too few of the others answer, unless
    /// `is_forced`.
    pub async fn remove(&self, id: ReplicaId, is_forced: bool) -> Result<(), ChangeError> {
        let view = self.view().ok_or(ChangeError::NotLeader)?;
        if !view.members.contains(&id) {
            return Ok(());
        }
        if !view.voters.contains(&id) {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
        }
        if id == self.id() {
            return Err(ChangeError::Leads(id));
        }
        let rest: Vec<_> = view.voters.iter().copied().filter(|voter| *voter != id).collect();
        let needed = rest.len() / 2 + 1;
        let silent: Vec<_> = rest.iter().copied().filter(|id| view.silent.contains(id)).collect();
        if rest.is_empty() {
            return Err(ChangeError::Last(id));
        }
        if rest.len() - silent.len() < needed && !is_forced {
            return Err(ChangeError::LosesMajority { replica: id, needed, rest, silent });
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
    }

    /// `None` if this replica does not lead.
    fn view(&self) -> Option<View> {
        let set = self.survey();
        let metrics = self.engine().metrics();
        let metrics = metrics.borrow_watched();
        let replicas = metrics.replication.as_ref().filter(|_| set.leads())?;
        let next = metrics.last_log_index.map_or(0, |last| last + 1);
        let lacks = replicas.iter().filter_map(|(id, matching)| {
            matching.as_ref().map(|matching| (*id, next.saturating_sub(matching.index + 1)))
        });
        let is_silent = |one: &&ReplicaState| {
            one.id != self.id() && !one.lag.is_some_and(ReplicaLag::is_reachable)
        };
        Some(View {
            configs: metrics.membership_config.membership().get_joint_config().len(),
            voters: set.voters().into_iter().collect(),
            members: set.replicas.iter().map(|one| one.id).collect(),
            lacks: lacks.collect(),
            silent: set.replicas.iter().filter(is_silent).map(|one| one.id).collect(),
        })
    }

    async fn change(&self, change: ChangeMembers<ReplicaId, Place>) -> Result<(), ChangeError> {
        let retains = matches!(change, ChangeMembers::AddNodes(_) | ChangeMembers::AddVoterIds(_));
        let changing = pin!(self.engine().change_membership(change, retains));
        let outcome = match select(changing, pin!(Types::<R>::sleep(AGREE_MAX))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => return Err(ChangeError::Unknown),
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.into_api_error() {
                Some(ClientWriteError::ForwardToLeader(_)) => ChangeError::NotLeader,
                Some(ClientWriteError::ChangeMembershipError(_)) => ChangeError::InProgress,
                _ => ChangeError::Unknown,
            }),
        }
    }
}
