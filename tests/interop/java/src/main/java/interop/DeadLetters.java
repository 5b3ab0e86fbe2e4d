package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages that a push consumer cannot process: their retries, and finally the dead letters. */
final class DeadLetters {
    private static final int GOOD_MESSAGES = 20;
    /** The delays before the second and the third attempt, as the script configures the broker. */
    private static final long LEVEL_3_MS = 1000;
    private static final long LEVEL_4_MS = 2000;
    private static final List<String> POISON = List.of("poison", "delayed");

    private final Target target;
    private final Admin admin;

    DeadLetters(Target target, Admin admin) {
        this.target = target;
        this.admin = admin;
    }

    void run(Report report) {
        report.check("poison messages, one of them delayed, go through all retries to the dead letters", 120, this::poison);
    }

    private String poison() throws Exception {
        var topic = target.newTopic(target.unique("poison"));
        var group = target.unique("poison");
        try (var consumer = new Push.Consumer(target, group, topic, message -> !POISON.contains(message.getKeys()))) {
            send(topic);
            for (var key : POISON) {
                await(120, "all attempts of " + key, () -> consumer.attempts(key).size() == Push.RETRIES + 1);
                requireAttempts(consumer.attempts(key), topic);
            }
            var delayed = consumer.attempts("delayed").get(0);
            require(delayed.getStoreTimestamp() - delayed.getBornTimestamp() >= LEVEL_4_MS, "it was not delayed: %s", delayed);
            for (var i = 0; i < GOOD_MESSAGES; i++) {
                var key = "good" + i;
                await(10, key, () -> !consumer.attempts(key).isEmpty());
                require(consumer.attempts(key).size() == 1, "%s was consumed %d times", key, consumer.attempts(key).size());
            }
            var waitedMs = requireDeadLetters("%DLQ%" + group, consumer);
            POISON.forEach(key -> require(consumer.attempts(key).size() == Push.RETRIES + 1, "%s was consumed again", key));
            return Push.RETRIES + 1 + " attempts, dead letters in ms after them " + waitedMs;
        }
    }

    /** The application's names are without the namespace; the broker's topics are named after the group with it. */
    String poisonInNamespace() throws Exception {
        var topic = target.unique("spaced");
        var group = target.unique("spaced");
        target.createTopic("SPACE%" + topic, Target.QUEUES_PER_BROKER);
        var producer = target.configured(target.namesrv);
        producer.setNamespace("SPACE");
        producer.start();
        // Noted by the listener, because the client adds the namespace again when it sends a message back.
        Set<String> topicsSeen = ConcurrentHashMap.newKeySet();
        try (var consumer = new Push.Consumer(target, group, topic, message -> {
            topicsSeen.add(message.getTopic());
            return !message.getKeys().equals("poison");
        }, client -> client.setNamespace("SPACE"))) {
            producer.send(new Message(topic, "tag", "good", Bodies.text("good")));
            producer.send(new Message(topic, "tag", "poison", Bodies.text("poison")));
            await(100, "all attempts", () -> consumer.attempts("poison").size() == Push.RETRIES + 1 && !consumer.attempts("good").isEmpty());
            var attempts = consumer.attempts("poison").stream().map(MessageExt::getReconsumeTimes).toList();
            require(attempts.equals(List.of(0, 1, 2)) && topicsSeen.equals(Set.of(topic)), "attempts %s of topics %s", attempts, topicsSeen);
            var dead = deadLetters("%DLQ%SPACE%" + group, 1);
            require(dead.size() == 1 && new String(dead.get(0).getBody(), StandardCharsets.UTF_8).equals("poison"), "dead letters: %s", dead);
            var topics = admin.mqadmin("topicList").lines().map(String::trim).toList();
            require(topics.contains("%RETRY%SPACE%" + group), "no retry topic in %s", topics);
            require(consumer.consumed.size() == Push.RETRIES + 2, "consumed %d times", consumer.consumed.size());
        }
        return Push.RETRIES + 1 + " attempts";
    }

    private void send(String topic) throws Exception {
        for (var i = 0; i < GOOD_MESSAGES; i++) {
            target.producer.send(new Message(topic, "tag", "good" + i, Bodies.text("good" + i)));
            if (i == GOOD_MESSAGES / 2) {
                target.producer.send(new Message(topic, "tag", "poison", Bodies.text("poison")));
                var delayed = new Message(topic, "tag", "delayed", Bodies.text("delayed"));
                delayed.setDelayTimeLevel(4);
                target.producer.send(delayed);
            }
        }
    }

    /** Checks all attempts to consume a message: each after a delay, and none with a property that delays it again. */
    private static void requireAttempts(List<MessageExt> attempts, String topic) {
        var id = ((MessageClientExt) attempts.get(0)).getOffsetMsgId();
        for (var i = 0; i < attempts.size(); i++) {
            var attempt = attempts.get(i);
            require(attempt.getReconsumeTimes() == i, "attempt %d says it is %d", i, attempt.getReconsumeTimes());
            require(attempt.getTopic().equals(topic), "attempt %d is of topic %s", i, attempt.getTopic());
            require(attempt.getProperty(MessageConst.PROPERTY_DELAY_TIME_LEVEL) == null, "attempt %d has a delay: %s", i, attempt);
            var original = attempt.getProperty(MessageConst.PROPERTY_ORIGIN_MESSAGE_ID);
            require(i == 0 ? original == null : original.equals(id), "attempt %d was first %s, not %s", i, original, id);
            var waitedMs = i == 0 ? LEVEL_3_MS : attempt.getStoreTimestamp() - attempts.get(i - 1).getStoreTimestamp();
            require(waitedMs >= LEVEL_3_MS, "attempt %d came %d ms after the one before", i, waitedMs);
        }
    }

    /** Reads the dead letters by pull and push consumers and mqadmin. Returns how long after the last attempt each was stored. */
    private List<Long> requireDeadLetters(String topic, Push.Consumer consumer) throws Exception {
        var dead = deadLetters(topic, POISON.size());
        require(dead.size() == POISON.size(), "dead letters: %s", dead);
        try (var again = new Push.Consumer(target, target.unique("undertaker"), topic, message -> true)) {
            await(30, "a push consumer of the dead letters", () -> again.consumed.size() == dead.size());
            for (var key : POISON) {
                requireDead(again.attempts(key).get(0), consumer.attempts(key).get(0));
            }
        }
        var waitedMs = new ArrayList<Long>();
        for (var letter : dead) {
            requireDead(letter, consumer.attempts(letter.getKeys()).get(0));
            requireQueried((MessageClientExt) letter, topic);
            waitedMs.add(letter.getStoreTimestamp() - consumer.refusedAt.get(letter.getKeys()));
        }
        require(waitedMs.stream().allMatch(ms -> ms < LEVEL_4_MS), "stored in ms after the last attempt: %s", waitedMs);
        return waitedMs;
    }

    private static void requireDead(MessageExt letter, MessageExt first) {
        var body = new String(letter.getBody(), StandardCharsets.UTF_8);
        require(body.equals(first.getKeys()) && letter.getKeys().equals(first.getKeys()) && letter.getTags().equals("tag"), "it is %s", letter);
        var id = ((MessageClientExt) first).getOffsetMsgId();
        var expected = Map.of(MessageConst.PROPERTY_RETRY_TOPIC, first.getTopic(), MessageConst.PROPERTY_ORIGIN_MESSAGE_ID, id);
        expected.forEach((name, value) -> require(value.equals(letter.getProperty(name)), "%s is %s", name, letter.getProperty(name)));
        require(letter.getReconsumeTimes() == Push.RETRIES + 1, "attempts: %d", letter.getReconsumeTimes());
        require(letter.getProperty(MessageConst.PROPERTY_DELAY_TIME_LEVEL) == null, "it has a delay: %s", letter);
    }

    /** mqadmin writes the body to a separate file. */
    private void requireQueried(MessageClientExt letter, String topic) throws Exception {
        var said = admin.queryMsgById(letter.getOffsetMsgId(), topic);
        var rows = List.of("Topic:\\s+" + topic, "Keys:\\s+\\[" + letter.getKeys() + "\\]", "Reconsume Times:\\s+" + (Push.RETRIES + 1),
            "Properties:(?!.*\\bDELAY=).*");
        for (var row : rows) {
            require(Pattern.compile("(?m)^" + row + "$").matcher(said).find(), "no %s: %s", row, said);
        }
        var path = Pattern.compile("Message Body Path:\\s+(\\S+)").matcher(said);
        require(path.find(), "no body: %s", said);
        var body = Path.of(path.group(1));
        require(Files.readString(body).equals(letter.getKeys()), "the body in %s", body);
        Files.delete(body);
    }

    /** Waits for at least `count` messages of a topic that does not exist at first. Returns all of them. */
    private List<MessageExt> deadLetters(String topic, int count) throws Exception {
        var reader = new DefaultLitePullConsumer(target.unique("dead"));
        reader.setNamesrvAddr(target.namesrv);
        reader.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        reader.start();
        try {
            await(20, "a route of " + topic, () -> {
                try {
                    return !reader.fetchMessageQueues(topic).isEmpty();
                } catch (Exception notYet) {
                    return false;
                }
            });
            reader.assign(reader.fetchMessageQueues(topic));
            var found = new ArrayList<MessageExt>();
            await(20, count + " messages in " + topic, () -> {
                found.addAll(reader.poll(200));
                return found.size() >= count;
            });
            found.addAll(reader.poll(1000));
            return found;
        } finally {
            reader.shutdown();
        }
    }
}
