package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.nio.file.Files;
import java.nio.file.Path;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Date;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Push consumers: groups that change, messages that cannot be processed, offsets that are reset. */
final class Push {
    static final int RETRIES = 2;
    private static final int MESSAGES = 60;
    private static final Pattern BODY = Pattern.compile("\"body\":\"([^\"]*)\"");

    private final Target target;
    private final Admin admin;

    Push(Target target) throws Exception {
        this.target = target;
        admin = new Admin(target);
    }

    void run(Report report) throws InterruptedException {
        // Beside the others, because all of them mostly wait.
        var beside = new Thread(() -> {
            new Members(target, admin).run(report);
            report.check("a poison message in a namespace", 120, new DeadLetters(target, admin)::poisonInNamespace);
            report.check("mqadmin resetOffsetByTime, while no member is online, moves a group back", 120, this::resetOffline);
        });
        beside.start();
        report.check("rebalances from 1 to 4 to 2 consumers while messages arrive", 120, this::rebalance);
        var ours = System.getenv("RINGMQ_BIN");
        if (ours != null) {
            report.check("shares a group with `ringmq msg tail --group`", 120, () -> shareWith(ours));
        }
        new DeadLetters(target, admin).run(report);
        report.check("mqadmin resetOffsetByTime moves a running group back", 120, this::resetOnline);
        report.check("mqadmin consumerConnection and consumerProgress", this::consumerConnection);
        report.check("mqadmin consumerStatus, queryMsgById -d and getConsumeStatus reach the consumer", this::consumerStatus);
        report.check("mqadmin updateSubGroup and deleteSubGroup", this::subGroup);
        beside.join();
    }

    /** A consumer and what it has consumed. */
    static final class Consumer implements AutoCloseable {
        final Queue<MessageExt> consumed = new ConcurrentLinkedQueue<>();
        /** When it last failed to process the message with these keys. */
        final Map<String, Long> refusedAt = new ConcurrentHashMap<>();
        private final DefaultMQPushConsumer consumer;

        Consumer(Target target, String group, String topic, Predicate<MessageExt> succeeds) throws Exception {
            this(target, group, topic, succeeds, consumer -> { });
        }

        Consumer(Target target, String group, String topic, Predicate<MessageExt> succeeds,
            java.util.function.Consumer<DefaultMQPushConsumer> configure) throws Exception {
            consumer = new DefaultMQPushConsumer(group);
            consumer.setNamesrvAddr(target.namesrv);
            consumer.setInstanceName(target.unique("instance"));
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.setMaxReconsumeTimes(RETRIES);
            consumer.setHeartbeatBrokerInterval(Target.HEARTBEAT_EVERY_MS);
            configure.accept(consumer);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                var allDone = true;
                for (var message : messages) {
                    consumed.add(message);
                    if (!succeeds.test(message)) {
                        refusedAt.put(message.getKeys(), System.currentTimeMillis());
                        allDone = false;
                    }
                }
                return allDone ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
            });
            consumer.start();
        }

        /** Number of queues of the topic that are assigned to the consumer. */
        int queueCount(String topic) {
            var queues = consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet();
            return (int) queues.stream().filter(queue -> queue.getTopic().equals(topic)).count();
        }

        List<MessageExt> attempts(String key) {
            return consumed.stream().filter(message -> message.getKeys().equals(key)).toList();
        }

        @Override
        public void close() {
            consumer.shutdown();
        }
    }

    private String rebalance() throws Exception {
        var topic = target.newTopic(target.unique("rebalance"), Target.QUEUES_PER_BROKER);
        var group = target.unique("rebalance");
        var queueCount = Target.QUEUES_PER_BROKER * target.brokerCount;
        var all = new ArrayList<Consumer>();
        var times = new ArrayList<Long>();
        Set<String> sent;
        try (var sender = new Sender(target.producer, topic)) {
            for (var count : new int[] {1, 4, 2}) {
                var begin = System.nanoTime();
                while (all.stream().filter(one -> one != null).count() < count) {
                    all.add(new Consumer(target, group, topic, message -> true));
                }
                var active = new ArrayList<>(all.subList(all.size() - count, all.size()));
                for (var one : all.subList(0, all.size() - count)) {
                    one.close();
                }
                await(30, count + " consumers share " + queueCount + " queues", () -> {
                    var queues = active.stream().mapToInt(one -> one.queueCount(topic)).toArray();
                    var sum = 0;
                    for (var number : queues) {
                        sum += number;
                        if (Math.abs(number * count - queueCount) >= count) {
                            return false;
                        }
                    }
                    return sum == queueCount;
                });
                times.add((System.nanoTime() - begin) / 1_000_000);
            }
            sent = sender.end();
            await(30, "everything is consumed", () -> keys(all).containsAll(sent));
        } finally {
            all.forEach(Consumer::close);
        }
        var deliveries = all.stream().mapToInt(one -> one.consumed.size()).sum();
        return sent.size() + " messages, " + (deliveries - sent.size()) + " twice, rebalanced in ms " + times;
    }

    /** RingMQ's own consumer divides the queues by the same rule, and takes over from a stock one. */
    private String shareWith(String program) throws Exception {
        var topic = target.newTopic(target.unique("mixed"), Target.QUEUES_PER_BROKER);
        var group = target.unique("mixed");
        var queueCount = Target.QUEUES_PER_BROKER * target.brokerCount;
        var printed = Files.createTempFile("ringmq-tail", ".json");
        Process ours = null;
        try (var consumer = new Consumer(target, group, topic, message -> true)) {
            await(30, "the stock consumer has all queues", () -> consumer.queueCount(topic) == queueCount);
            ours = new ProcessBuilder(
                    program, "msg", "tail", topic, "--group", group, "--namesrv", target.namesrv, "-o", "json")
                .redirectOutput(printed.toFile()).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            await(30, "the stock consumer has half of the queues", () -> consumer.queueCount(topic) == queueCount / 2);
            var sent = new HashSet<String>();
            send(topic, "both", sent);
            await(30, "everything is consumed", () -> {
                var all = keys(List.of(consumer));
                all.addAll(bodies(printed));
                return all.containsAll(sent);
            });
            var byOurs = bodies(printed);
            var byStock = keys(List.of(consumer));
            require(!byOurs.isEmpty() && !byStock.isEmpty(), "ours has %d, stock has %d", byOurs.size(), byStock.size());
            ours.destroy();
            require(ours.waitFor(15, TimeUnit.SECONDS) && ours.exitValue() == 0, "ours did not end well");
            await(30, "the stock consumer has all queues again", () -> consumer.queueCount(topic) == queueCount);
            send(topic, "alone", sent);
            await(30, "the rest is consumed", () -> {
                var all = keys(List.of(consumer));
                all.addAll(bodies(printed));
                return all.containsAll(sent);
            });
            return byOurs.size() + " by ours, " + byStock.size() + " by the stock consumer";
        } finally {
            if (ours != null) {
                ours.destroyForcibly();
            }
            Files.deleteIfExists(printed);
        }
    }

    private void send(String topic, String name, Set<String> sent) throws Exception {
        for (var i = 0; i < MESSAGES; i++) {
            target.producer.send(new Message(topic, "", name + i, Bodies.text(name + i)));
            sent.add(name + i);
        }
    }

    /** Returns the bodies that `ringmq msg tail` has printed, which are the keys. */
    private static Set<String> bodies(Path printed) throws Exception {
        var bodies = new HashSet<String>();
        for (var line : Files.readAllLines(printed)) {
            var body = BODY.matcher(line);
            if (body.find()) {
                bodies.add(body.group(1));
            }
        }
        return bodies;
    }

    static Set<String> keys(Collection<Consumer> consumers) {
        var keys = new HashSet<String>();
        consumers.forEach(one -> one.consumed.forEach(message -> keys.add(message.getKeys())));
        return keys;
    }

    private String resetOnline() throws Exception {
        var topic = target.newTopic(target.unique("reset"), Target.QUEUES_PER_BROKER);
        var group = target.unique("reset");
        try (var consumer = new Consumer(target, group, topic, message -> true)) {
            send(topic, "before", MESSAGES);
            await(30, "the first half", () -> consumer.consumed.size() >= MESSAGES);
            Thread.sleep(50);
            var between = System.currentTimeMillis();
            Thread.sleep(50);
            send(topic, "after", MESSAGES);
            await(30, "the second half", () -> consumer.consumed.size() >= 2 * MESSAGES);
            // The client commits every 5 s; a reset must not be undone by what it commits meanwhile.
            admin.mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", "" + between);
            await(60, "the second half again", () -> count(consumer, "after") >= 2 * MESSAGES);
            require(count(consumer, "before") == MESSAGES, "the first half came %d times", count(consumer, "before"));
        }
        return "";
    }

    /** Two times, one in milliseconds and one as a date: a consumer that starts then gets what was stored since, and nothing else. */
    private String resetOffline() throws Exception {
        var topic = target.newTopic(target.unique("offline"), Target.QUEUES_PER_BROKER);
        var group = target.unique("offline");
        var parts = List.of("first", "second", "third");
        var times = new ArrayList<Long>();
        for (var part : parts) {
            Thread.sleep(50);
            times.add(System.currentTimeMillis());
            Thread.sleep(50);
            send(topic, part, MESSAGES);
        }
        requireConsumed(group, topic, parts);
        var date = new SimpleDateFormat("yyyy-MM-dd#HH:mm:ss:SSS").format(new Date(times.get(2)));
        admin.mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", "" + times.get(1));
        requireConsumed(group, topic, parts.subList(1, 3));
        admin.mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", date);
        requireConsumed(group, topic, parts.subList(2, 3));
        return "";
    }

    /** Starts a consumer, which must get each message with these tags once. */
    private void requireConsumed(String group, String topic, List<String> tags) throws Exception {
        try (var consumer = new Consumer(target, group, topic, message -> true)) {
            var count = tags.size() * MESSAGES;
            await(30, count + " messages " + tags, () -> consumer.consumed.size() >= count);
            for (var tag : tags) {
                require(count(consumer, tag) == MESSAGES, "%d of %s, wanted %s", count(consumer, tag), tag, tags);
            }
            require(keys(List.of(consumer)).size() == count, "some came twice");
        }
    }

    private void send(String topic, String tag, int count) throws Exception {
        for (var i = 0; i < count; i++) {
            target.producer.send(new Message(topic, tag, tag + i, Bodies.text(tag + i)));
        }
    }

    private static long count(Consumer consumer, String tag) {
        return consumer.consumed.stream().filter(message -> tag.equals(message.getTags())).count();
    }

    private String consumerConnection() throws Exception {
        var topic = target.newTopic(target.unique("connection"), Target.QUEUES_PER_BROKER);
        var group = target.unique("connection");
        try (var consumer = new Consumer(target, group, topic, message -> true)) {
            send(topic, "t", MESSAGES);
            await(30, "everything is consumed", () -> consumer.consumed.size() >= MESSAGES);
            var said = admin.mqadmin("consumerConnection", "-g", group);
            for (var part : List.of(consumer.consumer.buildMQClientId(), "JAVA", topic, "CLUSTERING", "CONSUME_PASSIVELY")) {
                require(said.contains(part), "no %s: %s", part, said);
            }
            await(30, "no lag once the offsets are committed", () -> {
                var progress = admin.mqadmin("consumerProgress", "-g", group);
                return progress.contains(topic) && progress.contains("Consume Diff Total: 0")
                    || progress.contains(topic) && progress.matches("(?s).*Diff Total: 0\\b.*");
            });
        }
        return "";
    }

    /** Queries that an operator sends to one consumer, relayed by the broker. */
    private String consumerStatus() throws Exception {
        var topic = target.newTopic(target.unique("status"), Target.QUEUES_PER_BROKER);
        var group = target.unique("status");
        try (var consumer = new Consumer(target, group, topic, message -> true)) {
            var sent = target.producer.send(new Message(topic, "tag", "direct", Bodies.text("direct")));
            await(30, "it is consumed", () -> consumer.consumed.size() == 1);
            var client = consumer.consumer.buildMQClientId();
            var said = admin.mqadmin("consumerStatus", "-g", group, "-i", client);
            for (var part : List.of("#Consumer Properties#", "PROP_CONSUMER_START_TIMESTAMP", "#Consumer Subscription#", topic)) {
                require(said.contains(part), "no %s: %s", part, said);
            }
            said = admin.queryMsgById(sent.getOffsetMsgId(), topic, "-g", group, "-d", client);
            require(said.contains("CR_SUCCESS"), "not consumed: %s", said);
            require(consumer.attempts("direct").size() == 2, "consumed %d times", consumer.attempts("direct").size());
            var tools = new DefaultMQAdminExt();
            tools.setNamesrvAddr(target.namesrv);
            tools.start();
            try {
                var status = tools.getConsumeStatus(topic, group, "");
                require(status.keySet().equals(Set.of(client)), "the status is of %s", status.keySet());
                var consumed = status.get(client).values().stream().mapToLong(offset -> offset).sum();
                require(consumed == 1, "offsets: %s", status);
            } finally {
                tools.shutdown();
            }
        }
        return "";
    }

    private String subGroup() throws Exception {
        var group = target.unique("configured");
        var cluster = target.clusterName();
        var said = admin.mqadmin("updateSubGroup", "-c", cluster, "-g", group, "-r", "3", "-q", "2");
        require(said.contains("success"), "not configured: %s", said);
        target.awaitRoute("%RETRY%" + group, target.brokerCount);
        try {
            said = admin.mqadmin("deleteSubGroup", "-c", cluster, "-g", group, "-r", "true");
            require(said.contains("success"), "not deleted: %s", said);
        } catch (Report.Mismatch complaint) {
            // 5.x also removes an entry of the NameServer's key-value store, which ours does not have.
            require(complaint.getMessage().contains("DELETE_KV_CONFIG"), "%s", complaint.getMessage());
        }
        await(10, "its topics are gone", () -> !admin.mqadmin("topicList").contains(group));
        return "";
    }
}
