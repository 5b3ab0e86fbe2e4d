package interop;

import static interop.Report.require;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;

/**
 * A group that consumes while the broker is killed, and the check of what it consumed. Each delivery is one
 * line of a file, in the form of a manifest. The script adds lines about the group's offsets: `KILL`, then
 * `COMMITTED` broker queue offset before the broker is killed, and `RESTORED` likewise after its restart.
 */
final class CrashConsumers {
    private final Target target;

    CrashConsumers(Target target) {
        this.target = target;
    }

    /** Consumes until `stop` exists, then ends as a killed process does: without commits. */
    void consume(String topic, String group, int members, Path deliveries, Path stop) throws Exception {
        var file = Files.newBufferedWriter(deliveries, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        for (var i = 0; i < members; i++) {
            startMember(topic, group, file);
        }
        while (!Files.exists(stop) && Files.exists(deliveries)) {
            Thread.sleep(10);
        }
        Runtime.getRuntime().halt(0);
    }

    private void startMember(String topic, String group, BufferedWriter deliveries) throws MQClientException {
        var consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setInstanceName(target.unique("instance") + ProcessHandle.current().pid());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> append(deliveries, Sent.delivered(message).line()));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private static void append(BufferedWriter file, String line) {
        synchronized (file) {
            try {
                file.write(line + "\n");
                file.flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /** Checks that everything acknowledged was delivered, nothing else was, and nothing committed before a kill was delivered twice. */
    String verify(Path manifest, Path deliveries, int kills) throws IOException {
        var acknowledged = Sent.readManifest(manifest);
        var found = new Deliveries(acknowledged, Sent.readManifest(Crash.unacknowledged(manifest)));
        Files.readAllLines(deliveries).forEach(found::read);
        require(found.twice.size() == kills + 1, "kills noted: %d", found.twice.size() - 1);
        found.requireRestored();
        for (var one : acknowledged) {
            var keys = found.keysByPlace.get(one.place());
            require(one.keys().equals(keys), "%s at %s was acknowledged, delivered was %s", one.keys(), one.place(), keys);
        }
        return String.format("%d acknowledged, %d delivered; twice: %d before the first kill, after each kill %s", acknowledged.size(),
            found.keysByPlace.size(), found.twice.get(0), found.twice.subList(1, found.twice.size()));
    }

    /** The file of deliveries, read from its beginning. */
    private static final class Deliveries {
        final Map<String, String> keysByPlace = new HashMap<>();
        /** Deliveries of messages that were delivered before: until the first kill, and since each kill. */
        final List<Integer> twice = new ArrayList<>(List.of(0));
        private final Map<String, Sent> sentByKeys = new HashMap<>();
        private final Map<String, Long> committed = new HashMap<>();
        private final Set<String> notRestored = new HashSet<>();

        Deliveries(List<Sent> acknowledged, List<Sent> unacknowledged) {
            acknowledged.forEach(one -> sentByKeys.put(one.keys(), one));
            unacknowledged.forEach(one -> sentByKeys.put(one.keys(), one));
        }

        void read(String line) {
            var column = line.split("\t");
            switch (column[0]) {
                case "KILL" -> {
                    requireRestored();
                    twice.add(0);
                }
                case "COMMITTED" -> {
                    var queue = column[1] + "/" + column[2];
                    committed.put(queue, Long.parseLong(column[3]));
                    notRestored.add(queue);
                }
                case "RESTORED" -> {
                    var queue = column[1] + "/" + column[2];
                    var before = committed.getOrDefault(queue, 0L);
                    require(Long.parseLong(column[3]) >= before, "committed before the kill was %d, then: %s", before, line);
                    notRestored.remove(queue);
                }
                default -> delivered(Sent.parse(line));
            }
        }

        void requireRestored() {
            require(notRestored.isEmpty(), "no committed offset after the kill in %s", notRestored);
        }

        private void delivered(Sent one) {
            var sent = sentByKeys.get(one.keys());
            require(sent != null && sent.bodySha256().equals(one.bodySha256()) && sent.tags().equals(one.tags()),
                "delivered was what nobody sent: %s", one);
            var before = keysByPlace.put(one.place(), one.keys());
            if (before == null) {
                return;
            }
            require(before.equals(one.keys()), "at %s were %s and %s", one.place(), before, one.keys());
            var next = committed.getOrDefault(one.broker() + "/" + one.queue(), 0L);
            require(one.offset() >= next, "%s came again after %d had been committed before the kill", one.place(), next);
            twice.set(twice.size() - 1, twice.get(twice.size() - 1) + 1);
        }
    }
}
