package interop;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/** Sends messages k0, k1, k2, ... continuously until it is closed: these are their keys and their bodies. */
final class Sender implements AutoCloseable {
    private static final int PAUSE_MS = 5;

    private final DefaultMQProducer producer;
    private final String topic;
    private final Set<String> sent = ConcurrentHashMap.newKeySet();
    private final FutureTask<Void> sending = new FutureTask<>(this::send);
    private volatile boolean ends;
    private volatile int highestQueue;

    Sender(DefaultMQProducer producer, String topic) {
        this.producer = producer;
        this.topic = topic;
        new Thread(sending, "sender").start();
    }

    private Void send() throws Exception {
        for (var i = 0; !ends; i++) {
            var result = producer.send(new Message(topic, "", "k" + i, Bodies.text("k" + i)));
            highestQueue = Math.max(highestQueue, result.getMessageQueue().getQueueId());
            sent.add("k" + i);
            Thread.sleep(PAUSE_MS);
        }
        return null;
    }

    /** The highest number of a queue that has been used. */
    int highestQueue() {
        return highestQueue;
    }

    /** Sends no more. Returns the keys of all messages; throws if a send has failed. */
    Set<String> end() throws InterruptedException, ExecutionException {
        ends = true;
        sending.get();
        return sent;
    }

    @Override
    public void close() {
        ends = true;
    }
}
