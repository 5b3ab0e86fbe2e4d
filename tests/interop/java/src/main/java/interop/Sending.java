package interop;

import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Every way in which the Java producer can send; each case reads its messages back. */
final class Sending {
    static final int RESPONSE_TOPIC_NOT_EXIST = 17;
    static final int RESPONSE_MESSAGE_ILLEGAL = 13;
    /** The client's own code for "neither the topic nor its template has a route". */
    static final int CLIENT_NO_ROUTE = 10005;

    private final Target target;

    Sending(Target target) {
        this.target = target;
    }

    void run(Report report) {
        report.check("sync, compressible bodies of 1 B to 4 MiB", this::compressibleBodies);
        report.check("sync, random bodies of 1 B to 4 MiB, compressed by the client", this::randomBodies);
        report.check("sync, random bodies of 1 B to 4 MiB, sent as they are", this::uncompressedBodies);
        report.check("keys, tags, user properties and flag, in Chinese and beyond", this::texts);
        report.check("async, 300 messages", this::async);
        report.check("one-way, 100 messages", this::oneWay);
        report.check("queue picked by MessageQueueSelector, order per key", this::ordered);
        report.check("batch of 64 small messages with keys, tags, properties", this::batch);
        report.check("message ids of a batch", this::batchIds);
        report.check("batch of 3.9 MiB to one queue", this::largeBatch);
        report.check("producer on the fast port (listen - 2)", this::fastPort);
        report.check("too large a body or properties: 13, and the connection goes on", this::tooLarge);
    }

    private String compressibleBodies() throws Exception {
        return bodies("compressible", target.producer, 0, Bodies::compressible);
    }

    private String randomBodies() throws Exception {
        // zlib makes random bytes larger, and the broker counts what arrives.
        return bodies("random", target.producer, 16 * Bodies.KIB, Bodies::random);
    }

    private String uncompressedBodies() throws Exception {
        var producer = target.configured(target.namesrv);
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
        return bodies("uncompressed", producer, 0, Bodies::random);
    }

    private interface Body {
        byte[] of(int size, long seed);
    }

    private String bodies(String name, DefaultMQProducer producer, int spare, Body body) throws Exception {
        var topic = target.newTopic(name);
        int[] sizes = {1, 2, 100, 4095, 4096, 4097, 64 * Bodies.KIB, Bodies.MIB, Bodies.SIZE_MAX - spare};
        var sent = new ArrayList<Sent>();
        for (var size : sizes) {
            sent.add(sendSync(producer, new Message(topic, "size", "size-" + size, body.of(size, size)), Map.of()));
        }
        return Reading.requireExactlyInOrder(target, sent);
    }

    private String texts() throws Exception {
        var topic = target.newTopic("texts");
        var sent = new ArrayList<Sent>();
        sent.add(sendSync(target.producer, new Message(topic, Bodies.text("neither tag nor key")), Map.of()));
        sent.add(sendSync(target.producer, new Message(topic, "TagA", "one two three", Bodies.text("several keys")), Map.of()));
        sent.add(sendSync(target.producer, new Message(topic, "付款", "订单-一", Bodies.text("双十一零点，万人下单 🛒")),
            Map.of("买家", "张三", "备注", "请尽快发货，谢谢！", "emoji", "🎉𠮷")));
        sent.add(sendSync(target.producer, new Message(topic, "Signs", "signs", Bodies.text("\u0000\u0001\u0002\n\r\t")),
            Map.of("path", "a=b&c d\\\"e'<f>/%20", "json", "{\"a\":[1,null]}", "long", "x".repeat(20_000))));
        var flagged = new Message(topic, "Flag", "flag", Integer.MIN_VALUE + 7, Bodies.text("a flag"), true);
        sent.add(sendSync(target.producer, flagged, Map.of()));
        var outcome = Reading.requireExactlyInOrder(target, sent);
        var read = target.producer.viewMessage(topic, sent.get(sent.size() - 1).offsetMsgId());
        requireEqual(flagged.getFlag(), read.getFlag(), "flag");
        return outcome;
    }

    private String async() throws Exception {
        var topic = target.newTopic("async");
        var count = 300;
        var sent = new Sent[count];
        var open = new CountDownLatch(count);
        var failure = new AtomicReference<Throwable>();
        for (var i = 0; i < count; i++) {
            var index = i;
            var message = new Message(topic, "async", "async-" + i, Bodies.random(1 + i * 17, i));
            var expected = Sent.unplaced(message, Map.of());
            target.producer.send(message, new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    sent[index] = expected.placed(result);
                    open.countDown();
                }

                @Override
                public void onException(Throwable cause) {
                    failure.set(cause);
                    open.countDown();
                }
            });
        }
        require(open.await(20, TimeUnit.SECONDS), "%d of %d answers are missing after 20 s", open.getCount(), count);
        require(failure.get() == null, "a send failed: %s", failure.get());
        return Reading.requireExactly(target, List.of(sent));
    }

    private String oneWay() throws Exception {
        var topic = target.newTopic("oneway");
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < 100; i++) {
            var message = new Message(topic, "oneway", "oneway-" + i, Bodies.compressible(1 + i * 97, i));
            sent.add(Sent.unplaced(message, Map.of()));
            target.producer.sendOneway(message);
        }
        return Reading.requireExactly(target, sent);
    }

    private String ordered() throws Exception {
        var topic = target.newTopic("ordered");
        var sent = new ArrayList<Sent>();
        var queueOfOrder = new HashMap<String, String>();
        for (var i = 0; i < 200; i++) {
            var order = "order-" + i % 10;
            var message = new Message(topic, order, order + "-step-" + i, Bodies.text("step " + i));
            var expected = Sent.unplaced(message, Map.of());
            var result = target.producer.send(message,
                (queues, sending, key) -> queues.get(Math.floorMod(key.hashCode() * 31, queues.size())), order);
            sent.add(expected.placed(requireOk(result)));
            var queue = result.getMessageQueue().toString();
            requireEqual(queueOfOrder.computeIfAbsent(order, any -> queue), queue, "queue of " + order);
        }
        require(queueOfOrder.values().stream().distinct().count() > 1, "all orders went to one queue");
        return Reading.requireExactlyInOrder(target, sent);
    }

    private String batch() throws Exception {
        var topic = target.newTopic("batch");
        var sent = new ArrayList<Sent>();
        for (var round = 0; round < 3; round++) {
            var messages = new ArrayList<Message>();
            var properties = new ArrayList<Map<String, String>>();
            for (var i = 0; i < 64; i++) {
                messages.add(new Message(topic, "批" + i % 3, "batch-" + round + "-" + i, Bodies.random(1 + i, i)));
                properties.add(Map.of("序号", "第" + i + "条", "round", "" + round));
            }
            sent.addAll(sendBatch(target.producer, messages, properties, null));
        }
        return Reading.requireExactlyInOrder(target, sent);
    }

    /**
     * A batch returns the members' own ids. A 5.x client also gives the batch itself an id, in the
     * request's properties; the reference broker appends those to each member's, and parsers use the
     * last one. Either is correct, but a mixture is not.
     */
    private String batchIds() throws Exception {
        var topic = target.newTopic("batchids");
        var messages = new ArrayList<Message>();
        for (var i = 0; i < 10; i++) {
            messages.add(new Message(topic, "id", "id-" + i, Bodies.text("body " + i)));
        }
        var answered = List.of(requireOk(target.producer.send(messages)).getMsgId().split(","));
        requireEqual(messages.stream().map(message -> message.getProperty("UNIQ_KEY")).toList(), answered, "ids answered");
        var read = Reading.readTopic(target, topic, 10).stream().map(message -> message.getMsgId()).toList();
        if (read.equals(answered)) {
            return "each member keeps its own";
        }
        require(read.size() == 10 && read.stream().distinct().count() == 1, "answered %s, read %s", answered, read);
        return "all members are read with the batch's own id";
    }

    private String largeBatch() throws Exception {
        var topic = target.newTopic("largebatch", 1);
        var queue = target.producer.fetchPublishMessageQueues(topic).get(0);
        var messages = new ArrayList<Message>();
        var properties = new ArrayList<Map<String, String>>();
        for (var i = 0; i < 39; i++) {
            messages.add(new Message(topic, "large", "large-" + i, Bodies.random(100 * Bodies.KIB, i)));
            properties.add(Map.of());
        }
        return Reading.requireExactlyInOrder(target, sendBatch(target.producer, messages, properties, queue));
    }

    private String fastPort() throws Exception {
        var topic = target.newTopic("fastport");
        var producer = target.configured(target.namesrv);
        producer.setVipChannelEnabled(true);
        producer.start();
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < 20; i++) {
            sent.add(sendSync(producer, new Message(topic, "fast", "fast-" + i, Bodies.random(300, i)), Map.of()));
        }
        return Reading.requireExactlyInOrder(target, sent);
    }

    private String tooLarge() throws Exception {
        var topic = target.newTopic("toolarge");
        var producer = target.configured(target.namesrv);
        producer.setMaxMessageSize(2 * Bodies.SIZE_MAX);
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
        requireRefused(producer, new Message(topic, Bodies.random(Bodies.SIZE_MAX + 1, 1)), RESPONSE_MESSAGE_ILLEGAL);
        var message = new Message(topic, Bodies.text("too many properties"));
        message.putUserProperty("long", "x".repeat(40_000));
        requireRefused(producer, message, RESPONSE_MESSAGE_ILLEGAL);
        return Reading.requireExactly(target,
            List.of(sendSync(producer, new Message(topic, "ok", "after", Bodies.text("still there")), Map.of())));
    }

    static void requireRefused(DefaultMQProducer producer, Message message, int code) throws Exception {
        try {
            var result = producer.send(message);
            require(false, "was stored instead of refused with %d: %s", code, result);
        } catch (MQBrokerException refused) {
            requireEqual(code, refused.getResponseCode(), "response code (" + refused.getErrorMessage() + ")");
        } catch (MQClientException refused) {
            requireEqual(code, refused.getResponseCode(), "response code (" + refused.getErrorMessage() + ")");
        }
    }

    static Sent sendSync(DefaultMQProducer producer, Message message, Map<String, String> properties) throws Exception {
        properties.forEach(message::putUserProperty);
        var expected = Sent.unplaced(message, properties);
        return expected.placed(requireOk(producer.send(message)));
    }

    /**
     * `queue` may be null: the client picks one. The message ids are left out, because the broker determines
     * with which id the members of a 5.x client's batch are read back (see {@link #batchIds}).
     */
    static List<Sent> sendBatch(DefaultMQProducer producer, List<Message> messages, List<Map<String, String>> properties,
                                MessageQueue queue) throws Exception {
        var expected = new ArrayList<Sent>();
        for (var i = 0; i < messages.size(); i++) {
            properties.get(i).forEach(messages.get(i)::putUserProperty);
            expected.add(Sent.unplaced(messages.get(i), properties.get(i)));
        }
        var result = requireOk(queue == null ? producer.send(messages) : producer.send(messages, queue));
        var offsetMsgIds = result.getOffsetMsgId().split(",");
        requireEqual(messages.size(), offsetMsgIds.length, "offset message ids of a batch");
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < messages.size(); i++) {
            sent.add(expected.get(i).placed(result, i, "", offsetMsgIds[i]));
        }
        return sent;
    }

    static SendResult requireOk(SendResult result) {
        requireEqual(SendStatus.SEND_OK, result.getSendStatus(), "send status");
        return result;
    }
}
