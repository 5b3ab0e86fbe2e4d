package interop;

import static interop.Report.require;
import static interop.Report.requireEqual;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;

/** Messages that consumers see later. */
final class Delayed {
    private static final int COUNT = 20;
    private static final long LEVEL_1_MS = 1000;
    private static final long TIMER_MS = 3000;
    /** A stock broker rounds arbitrary times down by up to two seconds. */
    private static final long ROUNDING_MS = 2000;

    private final Target target;

    Delayed(Target target) {
        this.target = target;
    }

    void run(Report report) {
        report.check("delay level", this::levels);
        report.check("delay in seconds, in milliseconds, and until a time", this::timers);
        if (recallMethod() != null) {
            report.check("recall of delayed messages", this::recalls);
        }
    }

    private String levels() throws Exception {
        var topic = target.newTopic("delay_level");
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < COUNT; i++) {
            var message = new Message(topic, "later", target.unique("level"), Bodies.random(200, i));
            message.setDelayTimeLevel(1);
            sent.add(Sending.sendSync(target.producer, message, Map.of("i", "" + i)));
        }
        return requireDelayed(topic, sent, LEVEL_1_MS);
    }

    /** The 5.x setters only set these properties; 4.9 has no setters. */
    private String timers() throws Exception {
        var topic = target.newTopic("delay_timer");
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < COUNT; i++) {
            var message = new Message(topic, "later", target.unique("timer"), Bodies.random(200, i));
            switch (i % 3) {
                case 0 -> MessageAccessor.putProperty(message, "TIMER_DELAY_SEC", "" + TIMER_MS / 1000);
                case 1 -> MessageAccessor.putProperty(message, "TIMER_DELAY_MS", "" + TIMER_MS);
                default -> MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", "" + (System.currentTimeMillis() + TIMER_MS));
            }
            sent.add(Sending.sendSync(target.producer, message, Map.of("i", "" + i)));
        }
        return requireDelayed(topic, sent, TIMER_MS - ROUNDING_MS);
    }

    /** Clients have it since 5.3. */
    private static Method recallMethod() {
        try {
            return DefaultMQProducer.class.getMethod("recallMessage", String.class, String.class);
        } catch (NoSuchMethodException missing) {
            return null;
        }
    }

    /** Of messages that are due at the same time, every other one is recalled. */
    private String recalls() throws Exception {
        var topic = target.newTopic("recall");
        var getHandle = SendResult.class.getMethod("getRecallHandle");
        var deliverAt = System.currentTimeMillis() + TIMER_MS;
        var handles = new ArrayList<String>();
        var kept = new TreeSet<String>();
        for (var i = 0; i < COUNT; i++) {
            var message = new Message(topic, "later", target.unique("recall"), Bodies.random(200, i));
            MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", "" + deliverAt);
            var result = target.producer.send(message);
            var handle = (String) getHandle.invoke(result);
            handles.add(handle);
            if (i % 2 == 0) {
                requireEqual(result.getMsgId(), recallMethod().invoke(target.producer, topic, handle), "recalled id");
            } else {
                kept.add(result.getMsgId());
            }
        }
        var received = new TreeSet<String>();
        Reading.readTopic(target, topic, kept.size()).forEach(message -> received.add(message.getMsgId()));
        requireEqual(kept, received, "messages that were not recalled");
        requireEqual(604, refusalOf(topic, handles.get(1)), "code for a delivered message");
        return received.size() + " of " + COUNT + " messages";
    }

    /** The code with which a recall is refused. */
    private int refusalOf(String topic, String handle) throws Exception {
        try {
            recallMethod().invoke(target.producer, topic, handle);
            return 0;
        } catch (InvocationTargetException refused) {
            return refused.getCause() instanceof MQBrokerException error ? error.getResponseCode() : -1;
        }
    }

    private String requireDelayed(String topic, List<Sent> sent, long leastMs) throws Exception {
        var latest = 0L;
        var found = Reading.readTopic(target, topic, sent.size());
        requireEqual(sent.size(), found.size(), "messages");
        for (var message : found) {
            var waitedMs = message.getStoreTimestamp() - message.getBornTimestamp();
            require(waitedMs >= leastMs, "delivered after " + waitedMs + " ms");
            requireEqual(topic, message.getTopic(), "topic");
            latest = Math.max(latest, waitedMs);
        }
        return found.size() + " messages, the latest after " + latest + " ms";
    }
}
