//! Operations that wait for room in the log, for a limited time.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};

use super::Broker;
use super::due::{Due, Reached};
use super::operation::Context;
use crate::model::deadlines::DeadlineId;
use crate::model::{Moment, Refusal};
use crate::storage::AppendError;
use crate::storage::disk::Disk;

/// Time limit for an operation to get room in the log, ms. It is longer than a producer's, because
/// operations are few and do not add to the queue, and shorter than the 3 s after which stock
/// clients give up and close their connection (remoting reference, 1.7).
const WAIT_MS_MAX: u64 = 2_000;

impl<D: Disk> Broker<D> {
    /// Appends with `append`, now or as soon as there is room for what it needs, which is `size`
    /// bytes after an attempt. Refuses as busy if there is none in time.
    pub(super) async fn with_room<T>(
        &self,
        size: impl Fn() -> usize,
        mut append: impl FnMut() -> Result<T, AppendError>,
        context: &impl Context,
    ) -> Result<T, Refusal> {
        let attempted = match append() {
            Err(AppendError::NoRoom) => {
                let began = context.now().moment;
                let limit = self.limit(began.plus_ms(WAIT_MS_MAX));
                let appended = pin!(self.store.with_room(size(), append));
                match select(appended, pin!(limit.reached())).await {
                    Either::Left((attempted, _)) => attempted,
                    Either::Right(_) => {
                        let wait_ms = context.now().moment.ms_since(began);
                        return Err(self.refuse_no_room(wait_ms));
                    }
                }
            }
            attempted => attempted,
        };
        attempted.map_err(|error| self.refuse_append(error, size()))
    }

    fn limit(&self, at: Moment) -> Limit<'_, D> {
        let reached = Rc::<Reached>::default();
        let due = Due::RoomLimit(reached.clone());
        let deadline = self.state.borrow_mut().deadlines.insert(at, due);
        Limit { broker: self, deadline, reached }
    }
}

/// A time limit. Dropping it removes its deadline.
struct Limit<'a, D: Disk> {
    broker: &'a Broker<D>,
    deadline: DeadlineId,
    reached: Rc<Reached>,
}

impl<D: Disk> Limit<'_, D> {
    async fn reached(&self) {
        self.reached.wait().await;
    }
}

impl<D: Disk> Drop for Limit<'_, D> {
    fn drop(&mut self) {
        self.broker.state.borrow_mut().deadlines.cancel(self.deadline);
    }
}
