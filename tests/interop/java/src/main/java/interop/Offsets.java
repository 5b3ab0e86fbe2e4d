package interop;

import static interop.Report.await;
import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The consumer's side: pulls and their statuses, filters, long polling, committed offsets, look-ups. */
@SuppressWarnings("deprecation") // The plain pull consumer shows the statuses; commitSync is the name both versions have.
final class Offsets {
    private static final int LONG_QUEUE = 2000;

    private final Target target;

    Offsets(Target target) {
        this.target = target;
    }

    void run(Report report) {
        report.check("a queue of 2000 messages is read in order", this::longQueue);
        report.check("maxOffset, minOffset, earliest store time, searchOffset", this::search);
        report.check("viewMessage by offset id", this::view);
        report.check("tag expression filters exactly", this::filter);
        report.check("seekToBegin and seek read again from there", this::seek);
        report.check("a waiting poll wakes when a message comes", this::wake);
        report.check("committed offsets are there for the next consumer", this::committed);
        report.check("pull statuses: found, no new, no match, illegal offset", this::statuses);
    }

    /** Sends `count` numbered messages in batches of 100. */
    private List<Sent> fill(MessageQueue queue, int count) throws Exception {
        var sent = new ArrayList<Sent>();
        for (var first = 0; first < count; first += 100) {
            var messages = new ArrayList<Message>();
            var properties = new ArrayList<Map<String, String>>();
            for (var i = first; i < Math.min(count, first + 100); i++) {
                messages.add(new Message(queue.getTopic(), "n" + i % 4, "n-" + i, Bodies.text("message " + i)));
                properties.add(Map.of());
            }
            sent.addAll(Sending.sendBatch(target.producer, messages, properties, queue));
        }
        return sent;
    }

    private MessageQueue newQueue(String name) throws Exception {
        return target.producer.fetchPublishMessageQueues(target.newTopic(name, 1)).get(0);
    }

    /** Pulls one after another: each pull returns the next messages of the queue. */
    private String longQueue() throws Exception {
        var queue = newQueue("long");
        var sent = fill(queue, LONG_QUEUE);
        var consumer = newPullConsumer("long");
        try {
            var pulls = 0;
            for (var offset = 0; offset < LONG_QUEUE; pulls++) {
                var result = consumer.pullBlockIfNotFound(queue, "*", offset, 32);
                requireEqual(PullStatus.FOUND, result.getPullStatus(), "status at " + offset);
                for (var message : result.getMsgFoundList()) {
                    message.setBrokerName(queue.getBrokerName());
                    requireEqual(sent.get(offset).place(), Reading.place(message), "place");
                    Reading.requireSame(sent.get(offset++), message);
                }
                requireEqual((long) offset, result.getNextBeginOffset(), "next offset");
            }
            return pulls + " pulls";
        } finally {
            consumer.shutdown();
        }
    }

    private DefaultMQPullConsumer newPullConsumer(String what) throws Exception {
        var consumer = new DefaultMQPullConsumer(target.unique(what));
        consumer.setNamesrvAddr(target.namesrv);
        consumer.start();
        return consumer;
    }

    private String search() throws Exception {
        var queue = newQueue("search");
        requireEqual(0L, target.producer.maxOffset(queue), "maxOffset of an empty queue");
        requireEqual(0L, target.producer.minOffset(queue), "minOffset of an empty queue");
        for (var wave = 0; wave < 3; wave++) {
            fill(queue, 10);
            var sentAt = System.currentTimeMillis();
            await(5, "the clock to go on", () -> System.currentTimeMillis() > sentAt + 20);
        }
        requireEqual(30L, target.producer.maxOffset(queue), "maxOffset");
        requireEqual(0L, target.producer.minOffset(queue), "minOffset");
        var read = readQueue(queue);
        requireEqual(read.get(0).getStoreTimestamp(), target.producer.earliestMsgStoreTime(queue), "earliest store time");
        var firstAt = new TreeMap<Long, Long>();
        read.forEach(message -> firstAt.putIfAbsent(message.getStoreTimestamp(), message.getQueueOffset()));
        require(firstAt.size() >= 3, "three waves have at least three store times: %s", firstAt);
        for (var at : firstAt.entrySet()) {
            requireEqual(at.getValue(), target.producer.searchOffset(queue, at.getKey()), "offset at time " + at.getKey());
        }
        var secondWave = read.get(10).getStoreTimestamp();
        requireEqual(10L, target.producer.searchOffset(queue, secondWave - 1), "offset just before the second wave");
        requireEqual(0L, target.producer.searchOffset(queue, firstAt.firstKey() - 3_600_000), "offset an hour earlier");
        requireEqual(30L, target.producer.searchOffset(queue, firstAt.lastKey() + 3_600_000), "offset an hour later");
        return firstAt.size() + " store times";
    }

    private List<MessageExt> readQueue(MessageQueue queue) throws Exception {
        return Reading.readTopic(target, queue.getTopic(), 30).stream()
            .filter(message -> message.getBrokerName().equals(queue.getBrokerName())).toList();
    }

    private String view() throws Exception {
        var topic = target.newTopic("view");
        var sent = new ArrayList<Sent>();
        for (var size : new int[] {1, 5000, 300 * Bodies.KIB}) {
            sent.add(Sending.sendSync(target.producer,
                new Message(topic, "看", "view-" + size, Bodies.compressible(size, size)), Map.of("名", "值")));
        }
        sent.addAll(Sending.sendBatch(target.producer, List.of(new Message(topic, "b", "view-b0", Bodies.random(10, 1)),
            new Message(topic, "b", "view-b1", Bodies.random(20, 2))), List.of(Map.of(), Map.of()), null));
        for (var one : sent) {
            var seen = target.producer.viewMessage(topic, one.offsetMsgId());
            seen.setBrokerName(one.broker());
            Reading.requireSame(one, seen);
            requireEqual(one.place(), Reading.place(seen), "place");
        }
        return sent.size() + " messages";
    }

    private String filter() throws Exception {
        var topic = target.newTopic("filter", 2);
        var queues = target.producer.fetchPublishMessageQueues(topic);
        for (var queue : queues) {
            fill(queue, 200);
        }
        var consumer = Reading.configured(target, target.unique("filter"));
        consumer.setSubExpressionForAssign(topic, "n1 || n3");
        consumer.start();
        try {
            consumer.assign(queues);
            var read = Reading.pollMessages(consumer, 100L * queues.size());
            for (var message : read) {
                require(List.of("n1", "n3").contains(message.getTags()), "tag <%s> came through", message.getTags());
            }
            return read.size() + " of " + 200 * queues.size() + " messages";
        } finally {
            consumer.shutdown();
        }
    }

    private String seek() throws Exception {
        var topic = target.newTopic("seek", 2);
        var queues = target.producer.fetchPublishMessageQueues(topic);
        for (var queue : queues) {
            fill(queue, 50);
        }
        var consumer = Reading.newConsumer(target, target.unique("seek"));
        try {
            consumer.assign(consumer.fetchMessageQueues(topic));
            var first = Reading.pollMessages(consumer, 50L * queues.size());
            seek(queues, queue -> consumer.seekToBegin(queue));
            var again = Reading.pollMessages(consumer, first.size());
            requireEqual(msgIds(first), msgIds(again), "message ids of both readings");
            seek(queues, queue -> consumer.seek(queue, 45));
            for (var message : Reading.pollMessages(consumer, 5L * queues.size())) {
                require(message.getQueueOffset() >= 45, "read offset %d after a seek to 45", message.getQueueOffset());
            }
        } finally {
            consumer.shutdown();
        }
        return queues.size() + " queues";
    }

    private interface Seek {
        void to(MessageQueue queue) throws MQClientException;
    }

    /**
     * A seek interrupts the queue's held pull, and an interrupted pull of this client closes the
     * connection, even with other requests in flight on it: then the next seek must be retried.
     */
    private static void seek(List<MessageQueue> queues, Seek seek) throws Exception {
        for (var queue : queues) {
            await(10, "seek in " + queue, () -> {
                try {
                    seek.to(queue);
                    return true;
                } catch (MQClientException interrupted) {
                    return false;
                }
            });
        }
    }

    private static List<String> msgIds(List<MessageExt> messages) {
        return messages.stream().map(MessageExt::getMsgId).toList();
    }

    private String wake() throws Exception {
        var queue = newQueue("wake");
        var consumer = newPullConsumer("wake");
        try {
            var sender = new Thread(() -> {
                try {
                    TimeUnit.MILLISECONDS.sleep(500); // The pull should be held by then; the time taken is checked below.
                    fill(queue, 1);
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
            sender.setDaemon(true);
            var began = System.nanoTime();
            sender.start();
            var result = consumer.pullBlockIfNotFound(queue, "*", 0, 32);
            var took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
            requireEqual(PullStatus.FOUND, result.getPullStatus(), "status");
            requireEqual(1, result.getMsgFoundList().size(), "messages");
            require(took < 3000, "the message was sent after 500 ms, the pull was answered after %d ms", took);
            return "answered " + (took - 500) + " ms after the send began";
        } finally {
            consumer.shutdown();
        }
    }

    private String committed() throws Exception {
        var topic = target.newTopic("committed", 2);
        var queues = target.producer.fetchPublishMessageQueues(topic);
        for (var queue : queues) {
            fill(queue, 30);
        }
        var group = target.unique("committed");
        var first = Reading.newConsumer(target, group);
        first.assign(first.fetchMessageQueues(topic));
        try {
            Reading.pollMessages(first, 30L * queues.size());
            first.commitSync(queues.stream().collect(Collectors.toMap(queue -> queue, queue -> 30L)), true);
            // Commits are one-way requests: only a new consumer can see when they have arrived.
            await(10, "offset 30 committed in every queue", () -> committedOffsets(group, queues).values().stream().allMatch(at -> at == 30));
        } finally {
            first.shutdown();
        }

        for (var queue : queues) {
            fill(queue, 5);
        }
        var second = Reading.newConsumer(target, group);
        try {
            second.assign(second.fetchMessageQueues(topic));
            for (var message : Reading.pollMessages(second, 5L * queues.size())) {
                require(message.getQueueOffset() >= 30, "offset %d was read although 30 is committed", message.getQueueOffset());
            }
        } finally {
            second.shutdown();
        }
        return queues.size() + " queues";
    }

    private Map<MessageQueue, Long> committedOffsets(String group, List<MessageQueue> queues) throws Exception {
        var consumer = Reading.newConsumer(target, group);
        try {
            consumer.fetchMessageQueues(queues.get(0).getTopic());
            var offsets = new HashMap<MessageQueue, Long>();
            for (var queue : queues) {
                offsets.put(queue, consumer.committed(queue));
            }
            return offsets;
        } finally {
            consumer.shutdown();
        }
    }

    private String statuses() throws Exception {
        var queue = newQueue("statuses");
        fill(queue, 40);
        var consumer = newPullConsumer("statuses");
        try {
            pull(consumer, queue, "*", 0, 5, PullStatus.FOUND, 5, 5);
            pull(consumer, queue, "*", 38, 32, PullStatus.FOUND, 40, 2);
            pull(consumer, queue, "*", 40, 32, PullStatus.NO_NEW_MSG, 40, 0);
            pull(consumer, queue, "*", 1000, 32, PullStatus.OFFSET_ILLEGAL, 40, 0);
            pull(consumer, queue, "other", 0, 32, PullStatus.NO_MATCHED_MSG, -1, 0);
            pull(consumer, queue, "n2", 0, 1, PullStatus.FOUND, -1, 1);
        } finally {
            consumer.shutdown();
        }
        return "";
    }

    /** A `next` of -1 means anywhere between the requested offset and the end. */
    private static void pull(DefaultMQPullConsumer consumer, MessageQueue queue, String expression, long offset, int countMax,
                             PullStatus status, long next, int count) throws Exception {
        var result = consumer.pull(queue, expression, offset, countMax);
        var what = "pull of <" + expression + "> from " + offset + ": ";
        requireEqual(status, result.getPullStatus(), what + "status");
        requireEqual(0L, result.getMinOffset(), what + "min offset");
        requireEqual(40L, result.getMaxOffset(), what + "max offset");
        requireEqual(count, result.getMsgFoundList() == null ? 0 : result.getMsgFoundList().size(), what + "messages");
        if (next >= 0) {
            requireEqual(next, result.getNextBeginOffset(), what + "next offset");
        } else {
            require(result.getNextBeginOffset() > offset && result.getNextBeginOffset() <= 40,
                "%snext offset %d", what, result.getNextBeginOffset());
        }
    }
}
