package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Groups of push consumers whose members, or the queues of whose topic, change while messages arrive. */
final class Members {
    /** How soon a change of members must be noticed by the others. Without a notification they ask every 20 s. */
    private static final long NOTICE_MAX_MS = 1000;
    /** One, two and three members get equal shares of it. */
    private static final int DIVISIBLE_QUEUES = 6;
    private static final int QUEUES_BEFORE = 4;
    private static final int QUEUES_AFTER = 8;
    /** Enough for `mqadmin` to add queues, and for a message to each of them, before the consumers request routes again. */
    private static final int ROUTES_EVERY_MS = 15_000;

    /** What the member that will be killed consumes before: a third of what is sent in a few seconds. */
    private static final int CHILD_MESSAGES = 150;
    private static final int BROADCASTS = 60;

    private final Target target;
    private final Admin admin;

    Members(Target target, Admin admin) {
        this.target = target;
        this.admin = admin;
    }

    void run(Report report) {
        report.check("mqadmin updateTopic from 4 to 8 queues while a group consumes", 120, this::moreQueues);
        report.check("one consumer starts, and is killed with SIGKILL: the others notice", 120, this::joinsAndDies);
        report.check("broadcasting: two members get everything, offsets are local", 120, this::broadcasting);
    }

    /**
     * The consumers learn of the new queues later than the producer, and start at the end of a queue of which their group
     * has no offset. What is in the new queues by then must not be skipped.
     */
    private String moreQueues() throws Exception {
        var topic = target.newTopic(target.unique("grown"), QUEUES_BEFORE);
        var group = target.unique("grown");
        var producer = target.configured(target.namesrv);
        producer.setPollNameServerInterval(500);
        producer.start();
        try (var first = consumerFromLast(group, topic); var second = consumerFromLast(group, topic); var sender = new Sender(producer, topic)) {
            var both = List.of(first, second);
            await(30, "both share the queues", () -> share(both, topic, QUEUES_BEFORE * target.brokerCount));
            var began = System.nanoTime();
            var said = admin.mqadmin("updateTopic", "-c", target.clusterName(), "-t", topic, "-r", "" + QUEUES_AFTER, "-w", "" + QUEUES_AFTER);
            require(said.contains("success"), "not updated: %s", said);
            var early = sendToNewQueues(topic);
            await(10, "the producer uses the new queues", () -> sender.highestQueue() == QUEUES_AFTER - 1);
            require(share(both, topic, QUEUES_BEFORE * target.brokerCount), "the consumers have the new queues already, so this shows nothing");
            await(60, "both share the new queues too", () -> share(both, topic, QUEUES_AFTER * target.brokerCount));
            var noticed = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
            var sent = sender.end();
            sent.addAll(early);
            try {
                await(20, "everything is consumed", () -> Push.keys(both).containsAll(sent));
            } catch (Report.Mismatch incomplete) {
                sent.removeAll(Push.keys(both));
                require(false, "%s; %d are missing, among them %s", incomplete.getMessage(), sent.size(), sent.stream().limit(10).toList());
            }
            return sent.size() + " messages, consumers have the new queues after " + noticed + " ms";
        }
    }

    /** The member that will be killed: prints when it has started and what it receives. Ends when its standard input does. */
    static void consume(Target target, String topic, String group) throws Exception {
        new Push.Consumer(target, group, topic, message -> {
            System.out.println("RECEIVED " + message.getKeys());
            return true;
        });
        System.out.println("STARTED " + System.currentTimeMillis());
        System.in.read();
    }

    private String joinsAndDies() throws Exception {
        var topic = target.newTopic(target.unique("members"), DIVISIBLE_QUEUES);
        var group = target.unique("members");
        var queueCount = DIVISIBLE_QUEUES * target.brokerCount;
        var startedAt = new AtomicLong();
        Set<String> byChild = ConcurrentHashMap.newKeySet();
        try (var first = new Push.Consumer(target, group, topic, message -> true);
             var second = new Push.Consumer(target, group, topic, message -> true);
             var sender = new Sender(target.producer, topic)) {
            var both = List.of(first, second);
            await(30, "two members share the queues", () -> share(both, topic, queueCount));
            try (var child = new Child(target, "member", topic, group, line -> {
                var at = line.indexOf(' ');
                switch (line.substring(0, Math.max(at, 0))) {
                    case "STARTED" -> startedAt.set(Long.parseLong(line.substring(at + 1)));
                    case "RECEIVED" -> byChild.add(line.substring(at + 1));
                    default -> { }
                }
            })) {
                await(60, "three members share the queues", () -> share(both, topic, queueCount * 2 / 3));
                var sharedAt = System.currentTimeMillis();
                await(30, "the third has started", () -> startedAt.get() > 0);
                var joined = sharedAt - startedAt.get();
                // By then, the members have been at rest for longer than a 5.x client waits between two rebalances.
                await(30, "the third has consumed", () -> byChild.size() >= CHILD_MESSAGES);
                var killedAt = System.currentTimeMillis();
                child.kill();
                await(60, "two members share the queues again", () -> share(both, topic, queueCount));
                var died = System.currentTimeMillis() - killedAt;
                var sent = sender.end();
                await(20, "everything is consumed", () -> {
                    var all = Push.keys(both);
                    all.addAll(byChild);
                    return all.containsAll(sent);
                });
                require(joined <= NOTICE_MAX_MS && died <= NOTICE_MAX_MS, "ms until noticed: started %d, killed %d", joined, died);
                return sent.size() + " messages, " + byChild.size() + " by the one that was killed; ms until noticed: started " + joined
                    + ", killed " + died;
            }
        }
    }

    private Push.Consumer consumerFromLast(String group, String topic) throws Exception {
        return new Push.Consumer(target, group, topic, message -> true, consumer -> {
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
            consumer.setPollNameServerInterval(ROUTES_EVERY_MS);
        });
    }

    /** Sends one message to each of the new queues. Returns their keys. */
    private Set<String> sendToNewQueues(String topic) throws Exception {
        var keys = ConcurrentHashMap.<String>newKeySet();
        for (var broker : target.producer.fetchPublishMessageQueues(topic).stream().map(MessageQueue::getBrokerName).distinct().toList()) {
            for (var queue = QUEUES_BEFORE; queue < QUEUES_AFTER; queue++) {
                var key = "early-" + broker + "-" + queue;
                target.producer.send(new Message(topic, "", key, Bodies.text(key)), new MessageQueue(topic, broker, queue));
                keys.add(key);
            }
        }
        return keys;
    }

    /** Each member gets each message once, and continues at its own offset after a restart; the broker knows no offset. */
    private String broadcasting() throws Exception {
        var topic = target.newTopic(target.unique("broadcast"), QUEUES_BEFORE);
        var group = target.unique("broadcast");
        try (var stays = broadcastingMember("stays", group, topic)) {
            try (var leaves = broadcastingMember("leaves", group, topic)) {
                send(topic, "both");
                for (var one : List.of(stays, leaves)) {
                    await(30, "each has the first messages", () -> one.consumed.size() >= BROADCASTS);
                }
                requireOnce(leaves, "both");
            }
            send(topic, "apart");
            await(30, "the other has everything", () -> stays.consumed.size() >= 2 * BROADCASTS);
            requireOnce(stays, "both", "apart");
            try (var returns = broadcastingMember("leaves", group, topic)) {
                await(30, "what was sent meanwhile", () -> returns.consumed.size() >= BROADCASTS);
                requireOnce(returns, "apart");
            }
        }
        requireNoOffsets(group, topic);
        return "";
    }

    /** A member finds its offsets by the name of its instance, which stays the same. */
    private Push.Consumer broadcastingMember(String name, String group, String topic) throws Exception {
        return new Push.Consumer(target, group, topic, message -> true, consumer -> {
            consumer.setMessageModel(Enum.valueOf(consumer.getMessageModel().getDeclaringClass(), "BROADCASTING"));
            consumer.setInstanceName(group + "_" + name);
        });
    }

    private void send(String topic, String name) throws Exception {
        for (var i = 0; i < BROADCASTS; i++) {
            target.producer.send(new Message(topic, "", name + i, Bodies.text(name + i)));
        }
    }

    private static void requireOnce(Push.Consumer consumer, String... names) {
        var wanted = Stream.of(names).flatMap(name -> IntStream.range(0, BROADCASTS).mapToObj(i -> name + i)).sorted().toList();
        Report.requireEqual(wanted, consumer.consumed.stream().map(MessageExt::getKeys).sorted().toList(), "what a member has received");
    }

    /** A broker answers 0 for a queue of which a group has no offset, as long as the queue has its first message. */
    private void requireNoOffsets(String group, String topic) throws Exception {
        var reader = new DefaultMQPullConsumer(group);
        reader.setNamesrvAddr(target.namesrv);
        reader.setInstanceName(target.unique("instance"));
        reader.start();
        try {
            for (var queue : reader.fetchSubscribeMessageQueues(topic)) {
                var offset = reader.fetchConsumeOffset(queue, true);
                require(offset <= 0, "the broker has offset %d of %s", offset, queue);
            }
        } finally {
            reader.shutdown();
        }
    }

    /** Whether each consumer has the same number of the queues. */
    private static boolean share(List<Push.Consumer> consumers, String topic, int queueCount) {
        return consumers.stream().allMatch(one -> one.queueCount(topic) * consumers.size() == queueCount);
    }
}
