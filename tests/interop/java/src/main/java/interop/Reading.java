package interop;

import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Reads whole topics with the lite pull consumer in assign mode, and compares with what was sent. */
final class Reading {
    private static final int READ_DEADLINE_S = 30;
    private static final int POLL_MS = 100;
    /** A pull at the end of a queue blocks a thread of the client for 20 s; by default it has 20 of them. */
    private static final int PULL_THREADS = 64;
    /** Properties that client or broker add to the user's. */
    private static final Set<String> SYSTEM_PROPERTIES = Set.of("UNIQ_KEY", "KEYS", "TAGS", "WAIT", "CLUSTER",
        "MSG_REGION", "TRACE_ON", "MIN_OFFSET", "MAX_OFFSET", "INSTANCE_ID", "BORN_TIMESTAMP");

    private Reading() {
    }

    static DefaultLitePullConsumer newConsumer(Target target, String group) throws MQClientException {
        var consumer = configured(target, group);
        consumer.start();
        return consumer;
    }

    /**
     * A new group begins at the start of each queue. Not by seeking: with a seek during pulls, this client
     * sometimes loses a batch or the connection.
     */
    static DefaultLitePullConsumer configured(Target target, String group) {
        var consumer = new DefaultLitePullConsumer(group);
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setAutoCommit(false);
        consumer.setPullThreadNums(PULL_THREADS);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return consumer;
    }

    /**
     * Returns everything in the topic, at least `count` messages, each queue in the order of its offsets.
     * Waits, because brokers may acknowledge messages a little before consumers can see them.
     */
    static List<MessageExt> readTopic(Target target, String topic, int count) throws Exception {
        var consumer = newConsumer(target, target.unique("reader"));
        try {
            var queues = consumer.fetchMessageQueues(topic);
            Report.await(10, count + " messages in " + topic, () -> storedCount(target, queues) >= count);
            consumer.assign(queues);
            return pollMessages(consumer, storedCount(target, queues));
        } finally {
            consumer.shutdown();
        }
    }

    /** How many messages the queues have according to the brokers. */
    static long storedCount(Target target, Collection<MessageQueue> queues) throws MQClientException {
        var count = 0L;
        for (var queue : queues) {
            count += target.producer.maxOffset(queue) - target.producer.minOffset(queue);
        }
        return count;
    }

    /** Polls until messages at `count` offsets have arrived; ordered by offset. */
    static List<MessageExt> pollMessages(DefaultLitePullConsumer consumer, long count) {
        var byPlace = new TreeMap<Place, MessageExt>();
        var deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(READ_DEADLINE_S);
        while (byPlace.size() < count) {
            require(System.nanoTime() < deadline, "read %d of %d messages in %d s", byPlace.size(), count, READ_DEADLINE_S);
            for (var message : consumer.poll(POLL_MS)) {
                byPlace.putIfAbsent(Place.of(message), message);
            }
        }
        return new ArrayList<>(byPlace.values());
    }

    private record Place(String broker, int queue, long offset) implements Comparable<Place> {
        static Place of(MessageExt message) {
            return new Place(message.getBrokerName(), message.getQueueId(), message.getQueueOffset());
        }

        @Override
        public int compareTo(Place other) {
            return Comparator.comparing(Place::broker).thenComparing(Place::queue).thenComparing(Place::offset).compare(this, other);
        }
    }

    static String place(MessageExt message) {
        return message.getBrokerName() + "/" + message.getQueueId() + "/" + message.getQueueOffset();
    }

    /** Reads the topic of `sent` and requires exactly these messages, byte for byte, at their offsets. */
    static String requireExactly(Target target, List<Sent> sent) throws Exception {
        var topic = sent.get(0).topic();
        var read = readTopic(target, topic, sent.size());
        requireQueuesWhole(read);
        requireEqual(sent.size(), read.size(), "messages in " + topic);
        requireAll(sent, read);
        return read.size() + " messages";
    }

    /** As {@link #requireExactly}, for messages that were sent sequentially. */
    static String requireExactlyInOrder(Target target, List<Sent> sent) throws Exception {
        requireSendOrder(sent);
        return requireExactly(target, sent);
    }

    /** Requires that each sent message is in `read` exactly once, unchanged. There may be others. */
    static void requireAll(List<Sent> sent, List<MessageExt> read) {
        var byKeys = new HashMap<String, MessageExt>();
        var byPlace = new HashMap<String, MessageExt>();
        for (var message : read) {
            byKeys.put(message.getKeys(), message);
            byPlace.put(place(message), message);
        }
        var places = new HashMap<String, String>();
        for (var one : sent) {
            var found = one.isPlaced() ? byPlace.get(one.place()) : byKeys.get(one.keys());
            require(found != null, "%s (keys %s) of %s was not read", one.place(), one.keys(), one.topic());
            var other = places.put(place(found), one.keys());
            require(other == null, "%s and %s were given the same place %s", other, one.keys(), place(found));
            requireSame(one, found);
        }
    }

    static void requireSame(Sent sent, MessageExt read) {
        var who = sent.topic() + " " + place(read) + " keys <" + sent.keys() + ">";
        requireEqual(sent.topic(), read.getTopic(), who + ": topic");
        requireEqual(sent.bodySize(), read.getBody().length, who + ": body size");
        requireEqual(sent.bodySha256(), Sent.sha256(read.getBody()), who + ": body hash");
        requireEqual(sent.keys(), read.getKeys() == null ? "" : read.getKeys(), who + ": keys");
        requireEqual(sent.tags(), read.getTags() == null ? "" : read.getTags(), who + ": tags");
        requireEqual(sent.properties(), userProperties(read), who + ": properties");
        if (!sent.msgId().isEmpty()) {
            requireEqual(sent.msgId(), read.getMsgId(), who + ": message id");
        }
        if (!sent.offsetMsgId().isEmpty()) {
            requireOffsetId(sent.offsetMsgId(), read, who);
        }
    }

    private static void requireOffsetId(String wanted, MessageExt read, String who) {
        requireEqual(wanted, ((MessageClientExt) read).getOffsetMsgId(), who + ": offset message id");
        try {
            var decoded = MessageDecoder.decodeMessageId(wanted);
            requireEqual(read.getCommitLogOffset(), decoded.getOffset(), who + ": log offset in the offset message id");
            requireEqual(read.getStoreHost(), decoded.getAddress(), who + ": host in the offset message id");
        } catch (java.net.UnknownHostException e) {
            require(false, "%s: offset message id %s has no address", who, wanted);
        }
    }

    static Map<String, String> userProperties(MessageExt message) {
        var properties = new TreeMap<>(message.getProperties());
        properties.keySet().removeAll(SYSTEM_PROPERTIES);
        return properties;
    }

    /** Requires that the offsets within each queue are 0, 1, 2, ... */
    static void requireQueuesWhole(List<MessageExt> read) {
        var next = new HashMap<String, Long>();
        for (var message : read) {
            var queue = message.getBrokerName() + "/" + message.getQueueId();
            var wanted = next.getOrDefault(queue, 0L);
            requireEqual(wanted, message.getQueueOffset(), "next queue offset read from " + queue);
            next.put(queue, wanted + 1);
        }
    }

    /** Requires that messages that were sent sequentially have ascending offsets in each queue. */
    static void requireSendOrder(List<Sent> sent) {
        var last = new HashMap<String, Sent>();
        for (var one : sent) {
            if (one.isPlaced()) {
                var before = last.put(one.broker() + "/" + one.queue(), one);
                require(before == null || before.offset() < one.offset(),
                    "sent %s after %s but stored before it, at %s", one.keys(), before == null ? "" : before.keys(), one.place());
            }
        }
    }
}
