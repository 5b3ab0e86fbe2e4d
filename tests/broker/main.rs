//! The broker's guarantees on a simulated disk: stock semantics of requests, and what survives a
//! power cut at any moment. No runtime, no socket, no clock.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod clients;
mod common;
mod crash;
mod groups;
mod held;
mod messages;
mod offsets;
mod repeats;
mod replicas;
mod returns;
mod topics;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use ringmq::broker::clients::{CallError, Outgoing};
use ringmq::broker::operation::Context;
use ringmq::broker::{
    Answer, Broker, BrokerConfig, CutError, Handled, Leadership, Origin, Outcome, Released,
    Standing,
};
use ringmq::client::session::Session;
use ringmq::model::batch::BatchItem;
use ringmq::model::client::ResetOffsets;
use ringmq::model::record::{NewRecord, RecordView, property};
use ringmq::model::reply::{DelayedCounts, PullStatus, Pulled};
use ringmq::model::request::{
    BrokerQueue, ConsumeDirectly, ConsumeType, ConsumerData, Expression, Heartbeat, MessageModel,
    Produce, ProduceRecords, Pull, QueueOf, RunningInfo, SubscriptionData,
};
use ringmq::model::topic::TopicChange;
use ringmq::model::{
    ClientReply, ClientRequest, GroupName, LogOffset, Moment, Now, QueueId, QueueOffset, Refusal,
    Reply, Request, ShardId, Timestamp, TopicConfig, TopicName,
};
use ringmq::sim::{self, Fault, On, Operation, Rng, SimDisk};
use ringmq::storage::{CommitRule, StoreConfig};
use ringmq::wire::{self, RecordBatch};

use common::*;
