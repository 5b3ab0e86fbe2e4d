//! Requests of an operator to consumers, passed on by the broker to which they are connected
//! (remoting reference, 3.12).

use super::Broker;
use super::clients::CallError;
use super::groups::Groups;
use super::operation::Context;
use crate::model::record::RECORD_SIZE_MAX;
use crate::model::request::{BrokerQueue, ConsumeDirectly, RunningInfo};
use crate::model::{ClientId, ClientReply, ClientRequest, GroupName, Refusal, Reply, TopicName};
use crate::storage::disk::Disk;

/// Time limit for a client's reply, ms (remoting reference, 3.10).
const ANSWER_MS_MAX: u64 = 10_000;
/// The same if several clients are asked: even if one of them does not reply, the replies of the
/// others arrive before stock tools give up after 5 s.
const STATUS_MS_MAX: u64 = 3_000;
/// Approximate maximum size of all clients' replies together, bytes. They are sent in one reply.
const STATUS_SIZE_MAX: usize = 8 << 20;
/// Approximate size of a queue in a reply without its names, bytes.
const QUEUE_SIZE: usize = 80;

impl<D: Disk> Broker<D> {
    pub(super) async fn running_info(
        &self,
        info: &RunningInfo,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let connection = self.member_connection(&info.group, &info.client)?;
        let request = ClientRequest::RunningInfo(info.clone());
        self.relay((&info.group, &info.client), connection, request, context).await
    }

    pub(super) async fn consume_directly(
        &self,
        what: &ConsumeDirectly,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let connection = self.member_connection(&what.group, &what.client)?;
        let record = {
            let _permit = context.cold_read(RECORD_SIZE_MAX).await;
            self.record_at(what.offset).await?.to_vec().into()
        };
        let broker_name = self.config.broker_name.clone();
        let request = ClientRequest::ConsumeDirectly { what: what.clone(), broker_name, record };
        self.relay((&what.group, &what.client), connection, request, context).await
    }

    fn member_connection(&self, group: &GroupName, client: &ClientId) -> Result<u64, Refusal> {
        let connection = connection_of(&self.state.borrow().groups, group, client);
        connection.ok_or_else(|| Refusal::Unanswered {
            client: client.to_string(),
            why: format!("it is not a member of group {group} that is connected to this shard"),
        })
    }

    /// Sends a request to a member and returns its reply without decoding it.
    async fn relay(
        &self,
        (group, client): (&GroupName, &ClientId),
        connection: u64,
        request: ClientRequest,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let until = context.now().moment.plus_ms(ANSWER_MS_MAX);
        let is_there = |groups: &Groups| connection_of(groups, group, client) == Some(connection);
        let client = || client.to_string();
        let reply = match self.begin_call(connection, request, until) {
            Ok(call) => call.reply_while(is_there).await,
            Err(error) => Err(error),
        };
        match reply {
            Ok(ClientReply::Relayed(body)) => Ok(Reply::Relayed(body)),
            Ok(_) => Err(self.refuse_bug("a reply of another kind was relayed")),
            Err(CallError::TimedOut) => {
                Err(Refusal::AnswerTimedOut { client: client(), ms: ANSWER_MS_MAX })
            }
            Err(error) => Err(Refusal::Unanswered { client: client(), why: error.to_string() }),
        }
    }

    /// Asks the group's members that are connected to this shard. Those that do not reply are left
    /// out.
    pub(super) async fn consumer_status(
        &self,
        topic: &TopicName,
        group: &GroupName,
        client: Option<&ClientId>,
        context: &impl Context,
    ) -> Result<Reply, Refusal> {
        let members: Vec<(ClientId, u64)> = {
            let state = self.state.borrow();
            let asked =
                |(member, _): &(&ClientId, u64)| client.is_none_or(|client| client == *member);
            let members = state.groups.members_here(group).filter(asked);
            members.map(|(member, connection)| (member.clone(), connection)).collect()
        };
        if members.is_empty() {
            return Err(Refusal::NoConsumer(group.detached()));
        }
        let until = context.now().moment.plus_ms(STATUS_MS_MAX);
        let request = ClientRequest::ConsumerStatus { topic: topic.clone(), group: group.clone() };
        let call = |(client, connection)| {
            Some((client, connection, self.begin_call(connection, request.clone(), until).ok()?))
        };
        let calls: Vec<_> = members.into_iter().filter_map(call).collect();
        let (mut statuses, mut size) = (Vec::new(), 0);
        for (client, connection, call) in calls {
            let is_there =
                |groups: &Groups| connection_of(groups, group, &client) == Some(connection);
            let reply = call.reply_while(is_there).await;
            let Ok(ClientReply::ConsumerStatus(offsets)) = reply else { continue };
            size += client.len() + offsets.iter().map(size_of_queue).sum::<usize>();
            if size > STATUS_SIZE_MAX {
                let (what, size_max) = ("status of the group's members", STATUS_SIZE_MAX);
                return Err(Refusal::TooLarge { what, size, size_max });
            }
            statuses.push((client, offsets));
        }
        Ok(Reply::ConsumerStatus(statuses))
    }
}

/// The connection of a member to this shard.
fn connection_of(groups: &Groups, group: &GroupName, client: &ClientId) -> Option<u64> {
    let member = groups.members_here(group).find(|(member, _)| *member == client);
    member.map(|(_, connection)| connection)
}

fn size_of_queue((queue, _): &(BrokerQueue, i64)) -> usize {
    QUEUE_SIZE + queue.broker_name.len() + queue.queue.topic.as_str().len()
}
