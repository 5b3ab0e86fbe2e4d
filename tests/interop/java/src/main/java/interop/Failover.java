package interop;

import static interop.Report.require;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/**
 * Sends while one of several machines dies, with a producer's default settings: two retries, 3 s for
 * all attempts, routes requested every 30 s. No send may fail. Each acknowledgement is written to the
 * manifest immediately.
 *
 * <p>Each thread has its own producer and connections. If one of the threads that share a connection
 * reopens it before the client has noticed that it broke, the client does not fail the requests that
 * the others have in flight (NettyRemotingClient.closeChannel, 5.3.3). They wait for their 3 s, and no
 * time is left for another attempt.
 */
final class Failover {
    /** A rolling restart waits for its leaders to return, three times. */
    static final int SEND_DEADLINE_S = 200;
    /** Pause between two sends of a thread: without it, producers would keep the brokers of a small machine from
    * sending heartbeats. */
    private static final int PAUSE_MS = 3;
    private static final int REASONS_MAX = 3;

    private final Target target;
    private final AtomicInteger acknowledged = new AtomicInteger();
    private final AtomicInteger failed = new AtomicInteger();
    private final ConcurrentLinkedQueue<String> reasons = new ConcurrentLinkedQueue<>();

    Failover(Target target) {
        this.target = target;
    }

    /** Sends with this many producers until `stop` exists. */
    String run(String topic, int producerCount, Path manifest, Path stop) throws Exception {
        var producers = new ArrayList<DefaultMQProducer>();
        for (var i = 0; i < producerCount; i++) {
            producers.add(startProducer());
        }
        try (var acks = Files.newBufferedWriter(manifest)) {
            sendWithAll(producers, topic, acks, stop);
        } finally {
            producers.forEach(DefaultMQProducer::shutdown);
        }
        require(Files.exists(stop), "nobody told to stop within %d s", SEND_DEADLINE_S);
        var found = acknowledged.get() + " acknowledged, " + failed.get() + " failed";
        require(failed.get() == 0, "%s: %s", found, String.join("; ", reasons));
        return found;
    }

    private DefaultMQProducer startProducer() throws MQClientException {
        var producer = new DefaultMQProducer(target.unique("failover"));
        producer.setNamesrvAddr(target.namesrv);
        producer.start();
        return producer;
    }

    private void sendWithAll(List<DefaultMQProducer> producers, String topic, BufferedWriter acks, Path stop)
        throws InterruptedException {
        var deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(SEND_DEADLINE_S);
        var threads = new ArrayList<Thread>();
        for (var producer : producers) {
            threads.add(new Thread(() -> {
                for (var i = 0; !Files.exists(stop) && System.nanoTime() < deadline; i++) {
                    sendOne(producer, topic, producer.getProducerGroup() + "-" + i, acks);
                    LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(PAUSE_MS));
                }
            }));
        }
        threads.forEach(Thread::start);
        for (var thread : threads) {
            thread.join();
        }
    }

    private void sendOne(DefaultMQProducer producer, String topic, String keys, BufferedWriter acks) {
        try {
            var body = Bodies.random(1000, keys.hashCode());
            var line = Sending.sendSync(producer, new Message(topic, "failover", keys, body), Map.of()).line();
            synchronized (acks) {
                acks.write(line);
                acks.newLine();
                acks.flush();
            }
            acknowledged.incrementAndGet();
        } catch (IOException e) {
            throw new IllegalStateException("cannot record an acknowledgement", e);
        } catch (Exception e) {
            if (failed.incrementAndGet() <= REASONS_MAX) {
                reasons.add(String.valueOf(e.getMessage()).replaceAll("\\s+", " "));
            }
        }
    }
}
