package interop;

import static interop.Report.await;
import static interop.Report.require;
import static interop.Report.requireEqual;

import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Routes, and how topics are created: by the administrator, automatically, or not at all. */
final class Topics {
    private final Target target;

    Topics(Target target) {
        this.target = target;
    }

    void run(Report report) {
        report.check("every NameServer lists every broker", this::clusterInfo);
        report.check("createTopic by cluster name", () -> createTopic(target.clusterName()));
        if (target.autoCreate) {
            report.check("createTopic by TBW102", () -> createTopic("TBW102"));
            report.check("a send to an unknown topic creates it through TBW102", this::autoCreate);
        } else {
            report.check("a send to an unknown topic finds no route", this::noRoute);
            report.check("a broker answers 17 to a topic it does not have", this::unknownToBroker);
        }
    }

    private String clusterInfo() throws Exception {
        await(10, target.brokerCount + " broker(s) at every NameServer",
            () -> target.brokerAddressesByNamesrv().stream().allMatch(addresses -> addresses.size() >= target.brokerCount));
        var byNamesrv = target.brokerAddressesByNamesrv();
        for (var addresses : byNamesrv) {
            requireEqual(target.brokerCount, addresses.size(), "brokers " + addresses);
            requireEqual(byNamesrv.get(0), addresses, "brokers at the NameServers");
        }
        return byNamesrv.size() + " NameServer(s), brokers " + byNamesrv.get(0);
    }

    private String createTopic(String key) throws Exception {
        var topic = target.unique("created");
        target.producer.getDefaultMQProducerImpl().createTopic(key, topic, 3);
        target.awaitRoute(topic, target.brokerCount);
        var queues = target.producer.fetchPublishMessageQueues(topic);
        requireEqual(3 * target.brokerCount, queues.size(), "queues " + queues);
        return Reading.requireExactly(target,
            List.of(Sending.sendSync(target.producer, new Message(topic, "new", "first", Bodies.text("first")), Map.of())));
    }

    private String autoCreate() throws Exception {
        var topic = target.unique("auto");
        var sent = Sending.sendSync(target.producer, new Message(topic, "auto", "auto", Bodies.text("auto")), Map.of());
        target.awaitRoute(topic, 1);
        var consumer = Reading.newConsumer(target, target.unique("reader"));
        try {
            var queues = consumer.fetchMessageQueues(topic).stream().filter(queue -> queue.getBrokerName().equals(sent.broker()));
            requireEqual(4L, queues.count(), "queues at " + sent.broker());
        } finally {
            consumer.shutdown();
        }
        return Reading.requireExactly(target, List.of(sent));
    }

    private String noRoute() throws Exception {
        try {
            var result = target.producer.send(new Message(target.unique("unknown"), Bodies.text("lost")));
            require(false, "was stored: %s", result);
        } catch (MQClientException refused) {
            requireEqual(Sending.CLIENT_NO_ROUTE, refused.getResponseCode(), "code of " + refused.getErrorMessage());
        }
        return "";
    }

    /** The client knows the broker from another topic and is told to send to it. */
    private String unknownToBroker() throws Exception {
        var known = target.producer.fetchPublishMessageQueues(target.newTopic("known")).get(0);
        var unknown = new MessageQueue(target.unique("unknown"), known.getBrokerName(), 0);
        try {
            var result = target.producer.send(new Message(unknown.getTopic(), Bodies.text("lost")), unknown);
            require(false, "was stored: %s", result);
        } catch (org.apache.rocketmq.client.exception.MQBrokerException refused) {
            requireEqual(Sending.RESPONSE_TOPIC_NOT_EXIST, refused.getResponseCode(), "code of " + refused.getErrorMessage());
        }
        return "";
    }
}
