package interop;

import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
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
