package interop;

import static interop.Report.await;
import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Push consumers, and features that clients build on messages: filters, namespaces, traces, request and reply. */
final class Features {
    private static final int RECEIVE_DEADLINE_S = 40;
    private static final int REQUEST_TIMEOUT_MS = 20_000;
    private static final String TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC";

    private final Target target;

    Features(Target target) {
        this.target = target;
    }

    void run(Report report) {
        report.check("push consumer of several tags", this::tags);
        report.check("a consumer with SQL92 is refused at its start", this::sql);
        report.check("clients in a namespace", this::namespace);
        report.check("traces of producer and consumer", 2 * RECEIVE_DEADLINE_S, this::trace);
        report.check("request and reply", 2 * RECEIVE_DEADLINE_S, this::request);
    }

    private String tags() throws Exception {
        var topic = target.newTopic("tags");
        var received = new CopyOnWriteArrayList<MessageExt>();
        start(new DefaultMQPushConsumer(target.unique("tags")), topic, "TagA || 标签", received);
        for (var i = 0; i < 30; i++) {
            target.producer.send(new Message(topic, List.of("TagA", "标签", "TagC").get(i % 3), "" + i, Bodies.text("" + i)));
        }
        await(RECEIVE_DEADLINE_S, "20 messages", () -> received.size() >= 20);
        received.forEach(message -> require(!message.getTags().equals("TagC"), "%s", message));
        requireEqual(20L, received.stream().map(MessageExt::getKeys).distinct().count(), "messages");
        return "";
    }

    private String sql() throws Exception {
        var consumer = new DefaultMQPushConsumer(target.unique("sql"));
        consumer.setNamesrvAddr(target.namesrv);
        consumer.subscribe(target.newTopic("sql"), MessageSelector.bySql("a > 1"));
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        try {
            consumer.start();
            require(false, "it has started");
        } catch (MQClientException refused) {
            require(refused.getErrorMessage().contains("does not support"), "%s", refused.getErrorMessage());
        } finally {
            consumer.shutdown();
        }
        return "";
    }

    private String namespace() throws Exception {
        var name = target.unique("namespaced");
        target.createTopic("SPACE%" + name, Target.QUEUES_PER_BROKER);
        var received = new CopyOnWriteArrayList<MessageExt>();
        var consumer = new DefaultMQPushConsumer(target.unique("namespaced"));
        consumer.setNamespace("SPACE");
        start(consumer, name, "*", received);
        var producer = target.configured(target.namesrv);
        producer.setNamespace("SPACE");
        producer.start();
        producer.send(new Message(name, Bodies.text("in a namespace")));
        await(RECEIVE_DEADLINE_S, "the message", () -> !received.isEmpty());
        requireEqual(name, received.get(0).getTopic(), "topic");
        var stored = Reading.readTopic(target, "SPACE%" + name, 1);
        requireEqual(1, stored.size(), "messages in the topic by its whole name");
        return "";
    }

    private String trace() throws Exception {
        target.createTopic(TRACE_TOPIC, Target.QUEUES_PER_BROKER);
        var topic = target.newTopic("traced");
        var received = new CopyOnWriteArrayList<MessageExt>();
        start(traced(DefaultMQPushConsumer.class, target.unique("traced")), topic, "*", received);
        var producer = traced(DefaultMQProducer.class, target.unique("tracer"));
        producer.setNamesrvAddr(target.namesrv);
        producer.start();
        try {
            var id = producer.send(new Message(topic, Bodies.text("traced"))).getMsgId();
            await(RECEIVE_DEADLINE_S, "the message", () -> !received.isEmpty());
            for (var kind : List.of("Pub", "SubBefore")) {
                await(RECEIVE_DEADLINE_S, kind + " of " + id + " in the trace topic",
                    () -> Reading.readTopic(target, TRACE_TOPIC, 0).stream()
                        .anyMatch(trace -> new String(trace.getBody()).contains(kind + "\u0001") && trace.getKeys().contains(id)));
            }
        } finally {
            producer.shutdown();
        }
        return "";
    }

    /** Tracing is enabled by a constructor in 4.9 and by a setter in 5.x. */
    private static <T> T traced(Class<T> type, String group) throws ReflectiveOperationException {
        try {
            return type.getConstructor(String.class, boolean.class).newInstance(group, true);
        } catch (NoSuchMethodException newer) {
            var client = type.getConstructor(String.class).newInstance(group);
            type.getMethod("setEnableTrace", boolean.class).invoke(client, true);
            return client;
        }
    }

    private String request() throws Exception {
        var topic = target.newTopic("asked");
        var replier = target.newProducer();
        var consumer = new DefaultMQPushConsumer(target.unique("replier"));
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(Target.HEARTBEAT_EVERY_MS);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (var message : messages) {
                try {
                    replier.send(MessageUtil.createReplyMessage(message, Bodies.text("reply to " + new String(message.getBody()))));
                } catch (Exception failed) {
                    failed.printStackTrace();
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (var i = 0; i < 20; i++) {
            var reply = ask(new Message(topic, Bodies.text("question " + i)));
            requireEqual("reply to question " + i, new String(reply.getBody()), "reply");
        }
        consumer.shutdown();
        return "20 requests";
    }

    /** Uses a callback, because 5.3.3 ends a synchronous request when the request is stored; the callback gets null then. */
    private Message ask(Message question) throws Exception {
        var answered = new CompletableFuture<Message>();
        target.producer.request(question, new RequestCallback() {
            @Override
            public void onSuccess(Message reply) {
                if (reply != null) {
                    answered.complete(reply);
                }
            }

            @Override
            public void onException(Throwable failed) {
                answered.completeExceptionally(failed);
            }
        }, REQUEST_TIMEOUT_MS);
        return answered.get(REQUEST_TIMEOUT_MS, TimeUnit.MILLISECONDS);
    }

    private void start(DefaultMQPushConsumer consumer, String topic, String tags, List<MessageExt> received) throws Exception {
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(Target.HEARTBEAT_EVERY_MS);
        consumer.subscribe(topic, tags);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            received.addAll(messages);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }
}
