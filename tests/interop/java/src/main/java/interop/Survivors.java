package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;

/** Push consumers that know two NameServers, of which one is stopped: a running one continues, and a new one starts. */
final class Survivors {
    private static final int MESSAGES = 40;
    /** So that the running consumer requests routes while the NameServer is gone. */
    private static final int ROUTES_EVERY_MS = 1000;

    private final Target target;
    private final String topic;
    private final String group;

    Survivors(Target target, String topic) {
        this.target = target;
        this.topic = topic;
        group = target.unique("survivors");
    }

    /** Creates `begun` when the first consumer runs, and waits for `gone`, which exists once the NameServer has ended. */
    String run(Path begun, Path gone) throws Exception {
        var queueCount = Target.QUEUES_PER_BROKER * target.brokerCount;
        try (var running = newConsumer()) {
            await(30, "all queues", () -> running.queueCount(topic) == queueCount);
            var sent = new HashSet<String>();
            sendAndAwait("both", sent, List.of(running));
            Files.createFile(begun);
            await(60, "the NameServer has ended", () -> Files.exists(gone));
            sendAndAwait("one", sent, List.of(running));
            var began = System.nanoTime();
            try (var added = startNew()) {
                await(30, "both share the queues", () -> running.queueCount(topic) * 2 == queueCount && added.queueCount(topic) * 2 == queueCount);
                var joined = (System.nanoTime() - began) / 1_000_000;
                sendAndAwait("shared", sent, List.of(running, added));
                require(!added.consumed.isEmpty(), "the new consumer has received nothing");
                return sent.size() + " messages, a new consumer shares after " + joined + " ms";
            }
        }
    }

    private Push.Consumer newConsumer() throws Exception {
        return new Push.Consumer(target, group, topic, message -> true, consumer -> consumer.setPollNameServerInterval(ROUTES_EVERY_MS));
    }

    /** A 5.x client does not start while it happens to try the NameServer that is gone; it finds out within seconds. */
    private Push.Consumer startNew() throws Exception {
        var started = new ArrayList<Push.Consumer>();
        await(30, "a new consumer starts", () -> {
            try {
                return started.add(newConsumer());
            } catch (MQClientException | IllegalStateException notConnected) {
                return false;
            }
        });
        return started.get(0);
    }

    /** Other programs send to the topic too, so the group is in the keys. */
    private void sendAndAwait(String name, Set<String> sent, List<Push.Consumer> consumers) throws Exception {
        for (var i = 0; i < MESSAGES; i++) {
            var key = group + "_" + name + i;
            target.producer.send(new Message(topic, "", key, Bodies.text(key)));
            sent.add(key);
        }
        await(30, "messages " + name, () -> Push.keys(consumers).containsAll(sent));
    }
}
