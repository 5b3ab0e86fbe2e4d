package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * A group of orderly consumers, of which one leaves and one is killed while messages are sent: every queue
 * is consumed in order and by one consumer at a time, and goes to another consumer immediately if its owner
 * leaves, or once the lock has expired if its owner dies.
 *
 * <p>Each queue has messages 0, 1, 2, ... . After a change of owner some may be delivered again, because
 * offsets are committed every 5 s; nothing may be skipped.
 */
final class Ordered {
    private static final int PAUSE_BETWEEN_SENDS_MS = 50;
    private static final int JOIN_DEADLINE_S = 60;
    /** It usually takes a second, because the broker notifies the others; otherwise they ask within 20 s. */
    private static final int LEAVE_DEADLINE_S = 30;
    /** Locks expire after 60 s, and clients ask every 20 s. */
    private static final int TAKEOVER_DEADLINE_S = 100;

    /** One message that a consumer has received. */
    private record Event(String consumer, String queue, int number) {
    }

    private final Target target;
    private final String topic;
    private final String group;
    private final List<Event> events = new ArrayList<>();

    Ordered(Target target, String topic, String group) {
        this.target = target;
        this.topic = topic;
        this.group = group;
    }

    /** The consumer that will be killed: prints what it receives. Ends when its standard input does. */
    static void consume(Target target, String topic, String group) throws Exception {
        new Ordered(target, topic, group).start("child", event -> System.out.println("EVENT " + event.queue() + " " + event.number()));
        System.in.read();
    }

    void run(Report report) {
        report.check("orderly consumers: in order, one leaves, one is killed", TAKEOVER_DEADLINE_S + 180, this::run);
    }

    private String run() throws Exception {
        var queues = target.producer.fetchPublishMessageQueues(topic);
        var stopped = new AtomicBoolean();
        var sent = new ConcurrentHashMap<String, Integer>();
        var sender = new Thread(() -> send(queues, sent, stopped));
        sender.start();
        Child child = null;
        try {
            start("first", this::note);
            awaitConsumed(queues, sent, JOIN_DEADLINE_S, "first");

            var second = start("second", this::note);
            // Shuts it down only once it has its share: a client that is shut down while it locks queues may lock one
            // more after it has left, because its rebalance runs to its end, and that lock has to expire.
            await(JOIN_DEADLINE_S, "the second consumer has half of the queues", () -> queuesOf("second") >= queues.size() / 2);
            var began = System.nanoTime();
            second.shutdown();
            awaitConsumed(queues, sent, LEAVE_DEADLINE_S, "first");
            var left = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);

            child = startChild();
            await(JOIN_DEADLINE_S, "the third consumer has queues", () -> queuesOf("child") > 0);
            began = System.nanoTime();
            child.kill();
            awaitConsumed(queues, sent, TAKEOVER_DEADLINE_S, "first");
            var died = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
            stopped.set(true);
            sender.join();
            awaitConsumed(queues, sent, JOIN_DEADLINE_S, "first");
            return requireOrder() + ", taken over after " + left + " ms from one that left, after " + died + " ms from one that died";
        } finally {
            stopped.set(true);
            if (child != null) {
                child.close();
            }
        }
    }

    private void send(List<MessageQueue> queues, Map<String, Integer> sent, AtomicBoolean stopped) {
        for (var number = 0; !stopped.get(); number++) {
            for (var queue : queues) {
                try {
                    target.producer.send(new Message(topic, Bodies.text("" + number)), queue);
                } catch (Exception failed) {
                    throw new IllegalStateException(failed);
                }
                sent.put(name(queue), number);
            }
            sleep(PAUSE_BETWEEN_SENDS_MS);
        }
    }

    private static void sleep(int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private static String name(MessageQueue queue) {
        return queue.getBrokerName() + "/" + queue.getQueueId();
    }

    interface Listener {
        void received(Event event);
    }

    private DefaultMQPushConsumer start(String name, Listener listener) throws Exception {
        var consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(target.namesrv);
        consumer.setInstanceName(name + "-" + ProcessHandle.current().pid());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            for (var message : messages) {
                listener.received(new Event(name, name(context.getMessageQueue()), Integer.parseInt(new String(message.getBody()))));
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        return consumer;
    }

    /** Starts a consumer in its own process, whose output arrives as events. */
    private Child startChild() throws Exception {
        return new Child(target, "ordered-consume", topic, group, line -> {
            if (line.startsWith("EVENT ")) {
                var parts = line.split(" ");
                note(new Event("child", parts[1], Integer.parseInt(parts[2])));
            }
        });
    }

    private synchronized void note(Event event) {
        events.add(event);
    }

    private synchronized int queuesOf(String consumer) {
        return (int) events.stream().filter(event -> event.consumer().equals(consumer)).map(Event::queue).distinct().count();
    }

    private synchronized Map<String, Integer> newestOf(String consumer) {
        var newest = new HashMap<String, Integer>();
        events.stream().filter(event -> event.consumer().equals(consumer)).forEach(event -> newest.put(event.queue(), event.number()));
        return newest;
    }

    /** Waits until the consumer has received what each queue contains by now. */
    private void awaitConsumed(List<MessageQueue> queues, Map<String, Integer> sent, int seconds, String consumer) throws Exception {
        await(JOIN_DEADLINE_S, "a message in every queue", () -> sent.size() == queues.size());
        var wanted = new TreeMap<>(sent);
        try {
            await(seconds, consumer + " consumes all queues", () -> {
                var newest = newestOf(consumer);
                return wanted.entrySet().stream().allMatch(queue -> newest.getOrDefault(queue.getKey(), -1) >= queue.getValue());
            });
        } catch (Report.Mismatch late) {
            require(false, "%s; wanted %s, received %s", late.getMessage(), wanted, newestOf(consumer));
        }
    }

    /** Checks what each queue's consumers received, in order of time. */
    private synchronized String requireOrder() {
        var byQueue = new TreeMap<String, List<Event>>();
        events.forEach(event -> byQueue.computeIfAbsent(event.queue(), any -> new ArrayList<>()).add(event));
        var repeated = 0;
        for (var queue : byQueue.entrySet()) {
            var newest = -1;
            Event before = null;
            var owners = 0;
            for (var event : queue.getValue()) {
                var isNewOwner = before == null || !before.consumer().equals(event.consumer());
                owners += isNewOwner ? 1 : 0;
                require(event.number() <= newest + 1, "%s: %s skips what follows %d", queue.getKey(), event, newest);
                require(isNewOwner || event.number() == before.number() + 1, "%s: %s after %s", queue.getKey(), event, before);
                repeated += event.number() <= newest ? 1 : 0;
                newest = Math.max(newest, event.number());
                before = event;
            }
            // first, second, first, child, first: more means that two consumed the queue at the same time.
            require(owners <= 5, "%s: %d changes of owner", queue.getKey(), owners);
        }
        return byQueue.size() + " queues, " + events.size() + " messages, " + repeated + " repeated";
    }
}
