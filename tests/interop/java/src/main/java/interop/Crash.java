package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;

/**
 * Sends while the broker is killed, and then checks that no acknowledged message is lost. Each
 * acknowledgement is written to the manifest immediately, and each failed send to a file beside it. Unlike
 * elsewhere, the producer retries, as it does by default, so there may be more messages than acknowledgements.
 */
final class Crash {
    private static final int THREADS = 4;
    private static final int SEND_DEADLINE_S = 120;
    private static final int PAUSE_AFTER_FAILURE_MS = 20;
    /** Clients request routes every 30 s. */
    private static final int CONSUME_DEADLINE_S = 60;

    private final Target target;

    Crash(Target target) {
        this.target = target;
    }

    /** The manifest of sends that failed; their messages may be stored anyway. */
    static Path unacknowledged(Path manifest) {
        return manifest.resolveSibling(manifest.getFileName() + ".failed");
    }

    /** Sends until `stop` exists. Each thread pauses after each message. */
    void send(Path manifest, Path stop, int pauseMs) throws Exception {
        var topic = target.newTopic("crash");
        var producer = target.configured(target.namesrv);
        producer.setPollNameServerInterval(500);
        producer.setSendMsgTimeout(3000);
        producer.setRetryTimesWhenSendFailed(2);
        producer.start();
        var acknowledged = new AtomicInteger();
        var failed = new AtomicInteger();
        var deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(SEND_DEADLINE_S);
        try (var acks = Files.newBufferedWriter(manifest); var failures = Files.newBufferedWriter(unacknowledged(manifest))) {
            var threads = new ArrayList<Thread>();
            for (var t = 0; t < THREADS; t++) {
                var name = "crash-" + t;
                threads.add(new Thread(() -> {
                    for (var i = 0; !Files.exists(stop) && System.nanoTime() < deadline; i++) {
                        var isStored = sendOne(producer, topic, name + "-" + i, acks, failures);
                        (isStored ? acknowledged : failed).incrementAndGet();
                        pause(isStored ? pauseMs : PAUSE_AFTER_FAILURE_MS);
                    }
                }));
            }
            threads.forEach(Thread::start);
            for (var thread : threads) {
                thread.join();
            }
        }
        System.out.printf("acknowledged %d, failed %d%n", acknowledged.get(), failed.get());
        require(Files.exists(stop), "nobody told to stop within %d s", SEND_DEADLINE_S);
    }

    private static boolean sendOne(DefaultMQProducer producer, String topic, String keys, BufferedWriter acks, BufferedWriter failures) {
        var body = Bodies.random(1 + ThreadLocalRandom.current().nextInt(8 * Bodies.KIB), keys.hashCode());
        var message = new Message(topic, "crash", keys, body);
        var unplaced = Sent.unplaced(message, Map.of());
        try {
            record(acks, Sending.sendSync(producer, message, Map.of()));
            return true;
        } catch (UncheckedIOException e) {
            throw e;
        } catch (Exception e) {
            record(failures, unplaced);
            return false;
        }
    }

    private static void record(BufferedWriter manifest, Sent one) {
        synchronized (manifest) {
            try {
                manifest.write(one.line());
                manifest.newLine();
                manifest.flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /** Also keeps a producer without a broker from spinning. */
    private static void pause(int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /**
     * Consumes what {@link #send} sends, until it has consumed all messages that are acknowledged when `stop` exists.
     * Creates `begun` when it has consumed the first one.
     */
    String consume(Path manifest, Path begun, Path stop) throws Exception {
        await(SEND_DEADLINE_S, "a first acknowledgement", () -> Files.exists(manifest) && Files.size(manifest) > 1000);
        var topic = Sent.readManifest(manifest).get(0).topic();
        var consumed = new ConcurrentHashMap<String, Integer>();
        var lastAt = new AtomicLong(System.nanoTime());
        var gap = new AtomicLong();
        var consumer = new DefaultMQPushConsumer(target.unique("crash-consumer"));
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            var now = System.nanoTime();
            gap.accumulateAndGet(now - lastAt.getAndSet(now), Math::max);
            messages.forEach(message -> consumed.merge(message.getKeys(), 1, Integer::sum));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        try {
            await(CONSUME_DEADLINE_S, "a first message", () -> !consumed.isEmpty());
            Files.createFile(begun);
            await(SEND_DEADLINE_S, "the end of sending", () -> Files.exists(stop));
            await(CONSUME_DEADLINE_S, "all acknowledged messages",
                () -> Sent.readManifest(manifest).stream().allMatch(sent -> consumed.containsKey(sent.keys())));
        } finally {
            consumer.shutdown();
        }
        var again = consumed.values().stream().filter(count -> count > 1).count();
        return consumed.size() + " consumed, " + again + " of them repeatedly, longest gap "
            + TimeUnit.NANOSECONDS.toMillis(gap.get()) + " ms";
    }

    /** Checks that every acknowledged message is intact and at its acknowledged offset, and that queues have no gaps. */
    String verify(Path manifest) throws Exception {
        List<Sent> sent = Sent.readManifest(manifest);
        require(!sent.isEmpty(), "nothing was acknowledged");
        var places = new HashSet<String>();
        sent.forEach(one -> require(places.add(one.place()), "two acknowledgements for %s", one.place()));
        target.awaitRoute(sent.get(0).topic(), target.brokerCount);
        var read = Reading.readTopic(target, sent.get(0).topic(), sent.size());
        Reading.requireQueuesWhole(read);
        Reading.requireAll(sent, read);
        return sent.size() + " acknowledged, " + read.size() + " stored";
    }
}
