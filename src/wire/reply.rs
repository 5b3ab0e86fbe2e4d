//! Answers, as a server writes them.

use crate::model::{Refusal, Reply};
use crate::wire::codes::{self, request, response};
use crate::wire::frame::HeaderEncoding;
use crate::wire::header::{self, FLAG_REPLY, FieldWriter, Language, NewHead, fixed};
use crate::wire::request::ReplyTo;
use crate::wire::{admin, group, message, route};

/// Appends the answer to the request that `to` stands for: prefix, header and body. `chunk_bytes`
/// bytes of messages follow it on the wire.
pub fn encode_reply(
    out: &mut Vec<u8>,
    to: ReplyTo,
    reply: &Result<Reply, Refusal>,
    chunk_bytes: usize,
) {
    if to.encoding == HeaderEncoding::Fixed {
        return fixed::encode_reply(out, to.code as u8, to.opaque, reply, chunk_bytes);
    }
    let answer = Answer { out, to, chunk_bytes };
    match reply {
        Ok(reply) => encode_success(answer, reply),
        Err(refusal) => encode_refusal(answer, refusal),
    }
}

/// An answer about to be written.
struct Answer<'a> {
    out: &'a mut Vec<u8>,
    to: ReplyTo,
    chunk_bytes: usize,
}

impl Answer<'_> {
    /// Writes an answer that says all with its named fields.
    fn fields(self, fields: impl FnOnce(&mut FieldWriter<'_>)) {
        self.whole(response::SUCCESS, None, fields, |_| {});
    }

    /// Writes an answer that says all with its body.
    fn body(self, body: impl FnOnce(&mut Vec<u8>)) {
        self.whole(response::SUCCESS, None, |_| {}, body);
    }

    fn whole(
        self,
        code: i32,
        remark: Option<&str>,
        fields: impl FnOnce(&mut FieldWriter<'_>),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let head = NewHead {
            code,
            language: Language::Java,
            opaque: self.to.opaque,
            flag: FLAG_REPLY,
            remark,
        };
        header::write(self.out, self.to.encoding, head, fields, body, self.chunk_bytes);
    }
}

fn encode_success(answer: Answer<'_>, reply: &Reply) {
    let code = answer.to.code;
    match reply {
        Reply::Done => answer.fields(|_| {}),
        Reply::Produced(produced) => answer.fields(|fields| {
            message::encode_traced(fields);
            message::encode_produced(fields, produced);
        }),
        Reply::Pulled(pulled) => {
            let (code, word) = message::pull_code(pulled.status);
            answer.whole(code, Some(word), |fields| message::encode_pulled(fields, pulled), |_| {});
        }
        Reply::Message if code == request::QUERY_MESSAGE => answer.fields(message::encode_queried),
        Reply::Message => answer.fields(|_| {}),
        Reply::Offset(offset) => answer.fields(|fields| fields.number("offset", offset.0)),
        Reply::StoreTime(time) => {
            let time_ms = time.map_or(-1, |time| time.0 as i64);
            answer.fields(|fields| fields.number("timestamp", time_ms));
        }
        Reply::HeartbeatTaken => answer.fields(|fields| fields.text(group::CAPABILITY_FIXED, "1")),
        Reply::Members(members) => answer.body(|out| group::write_members(out, members)),
        Reply::TopicStats(queues) => answer.body(|out| admin::write_topic_stats(out, queues)),
        Reply::RuntimeInfo(table) => answer.body(|out| admin::write_table(out, table)),
        // The table of ordered topics, which we have none of. Stock brokers read it.
        Reply::Registered => answer.body(|out| admin::write_table(out, &[])),
        Reply::DataVersion { is_changed, known } => answer.whole(
            response::SUCCESS,
            None,
            |fields| fields.boolean("changed", *is_changed),
            |out| known.iter().for_each(|version| route::write_data_version(out, version)),
        ),
        Reply::Route(route) => answer.body(|out| route::write_route(out, route)),
        Reply::ClusterInfo(info) => answer.body(|out| route::write_cluster_info(out, info)),
        Reply::TopicList(topics) => answer.body(|out| route::write_topic_list(out, topics)),
    }
}

fn encode_refusal(answer: Answer<'_>, refusal: &Refusal) {
    let is_send = matches!(
        answer.to.code,
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE
    );
    let fields = |fields: &mut FieldWriter<'_>| {
        if is_send {
            message::encode_traced(fields);
        }
    };
    answer.whole(codes::refusal_code(refusal), Some(&codes::remark(refusal)), fields, |_| {});
}
