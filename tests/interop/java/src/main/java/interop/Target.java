package interop;

import static interop.Report.await;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;

/**
 * The servers under test as the cases see them: their NameServers, their expected behaviour, and the
 * administration that cases need (topics that exist on every broker and are known to every NameServer).
 *
 * <p>Protocol classes are in different packages in 4.9 and 5.x, so they are never named here: use `var`.
 */
final class Target implements AutoCloseable {
    static final int ADMIN_TIMEOUT_MS = 5000;
    static final int QUEUES_PER_BROKER = 4;
    /**
     * For push consumers: a 5.x client that rebalances while it sends a heartbeat receives nothing until its next
     * one, by default 30 s later.
     */
    static final int HEARTBEAT_EVERY_MS = 5000;

    final String namesrv;
    /** Prefix of every topic and group, so that several runs can share the servers. */
    final String prefix;
    final boolean autoCreate;
    final int brokerCount;
    final DefaultMQProducer producer;
    /** One client per NameServer: routes must be requested from each of them. */
    private final List<DefaultMQProducer> perNamesrv = new ArrayList<>();
    private final List<AutoCloseable> toClose = Collections.synchronizedList(new ArrayList<>());
    private final AtomicInteger names = new AtomicInteger();

    Target(String namesrv, String prefix, boolean autoCreate, int brokerCount) throws MQClientException {
        this.namesrv = namesrv;
        this.prefix = prefix;
        this.autoCreate = autoCreate;
        this.brokerCount = brokerCount;
        for (var one : namesrv.split(";")) {
            perNamesrv.add(newProducer(one));
        }
        producer = newProducer();
    }

    DefaultMQProducer newProducer() throws MQClientException {
        return newProducer(namesrv);
    }

    /** A producer that never retries, so every surplus message is the server's mistake. */
    private DefaultMQProducer newProducer(String addresses) throws MQClientException {
        var made = configured(addresses);
        made.start();
        return made;
    }

    DefaultMQProducer configured(String addresses) {
        var made = new DefaultMQProducer(unique("producer"));
        made.setNamesrvAddr(addresses);
        made.setSendMsgTimeout(10_000);
        made.setRetryTimesWhenSendFailed(0);
        made.setRetryTimesWhenSendAsyncFailed(0);
        toClose.add(made::shutdown);
        return made;
    }

    String unique(String what) {
        return prefix + "_" + what + "_" + names.getAndIncrement();
    }

    /** Creates a topic with the same number of queues on every broker, known to every NameServer. */
    String newTopic(String name, int queuesPerBroker) throws Exception {
        var topic = prefix + "_" + name;
        createTopic(topic, queuesPerBroker);
        return topic;
    }

    /** Creates the topic with exactly this name. */
    void createTopic(String topic, int queuesPerBroker) throws Exception {
        var config = new TopicConfig(topic);
        config.setReadQueueNums(queuesPerBroker);
        config.setWriteQueueNums(queuesPerBroker);
        await(20, brokerCount + " broker(s) at the NameServer", () -> brokerAddresses().size() >= brokerCount);
        for (var address : brokerAddresses()) {
            api(producer).createTopic(address, producer.getCreateTopicKey(), config, ADMIN_TIMEOUT_MS);
        }
        awaitRoute(topic, brokerCount);
    }

    String newTopic(String name) throws Exception {
        return newTopic(name, QUEUES_PER_BROKER);
    }

    void awaitRoute(String topic, int brokers) throws Exception {
        for (var client : perNamesrv) {
            await(10, "a route of " + topic + " to " + brokers + " broker(s) at " + client.getNamesrvAddr(),
                () -> routedBrokers(client, topic) >= brokers);
        }
    }

    /** How many brokers the NameServer of `client` has for the topic; 0 if it does not know the topic. */
    private static int routedBrokers(DefaultMQProducer client, String topic) throws Exception {
        try {
            return api(client).getTopicRouteInfoFromNameServer(topic, ADMIN_TIMEOUT_MS).getQueueDatas().size();
        } catch (MQClientException unknown) {
            return 0;
        }
    }

    /** Addresses of all masters according to the first NameServer. */
    TreeSet<String> brokerAddresses() throws Exception {
        return brokerAddresses(producer);
    }

    /** Addresses of all masters according to each NameServer. */
    List<TreeSet<String>> brokerAddressesByNamesrv() throws Exception {
        var found = new ArrayList<TreeSet<String>>();
        for (var client : perNamesrv) {
            found.add(brokerAddresses(client));
        }
        return found;
    }

    private static TreeSet<String> brokerAddresses(DefaultMQProducer client) throws Exception {
        var addresses = new TreeSet<String>();
        for (var broker : api(client).getBrokerClusterInfo(ADMIN_TIMEOUT_MS).getBrokerAddrTable().values()) {
            addresses.add(broker.getBrokerAddrs().get(0L));
        }
        return addresses;
    }

    /** The only broker: its name, and the addresses of its master and slaves by their numbers. */
    Map.Entry<String, Map<Long, String>> onlyBroker() throws Exception {
        var broker = api(producer).getBrokerClusterInfo(ADMIN_TIMEOUT_MS).getBrokerAddrTable().values().iterator().next();
        return Map.entry(broker.getBrokerName(), broker.getBrokerAddrs());
    }

    String clusterName() throws Exception {
        return api(producer).getBrokerClusterInfo(ADMIN_TIMEOUT_MS).getClusterAddrTable().keySet().iterator().next();
    }

    private static org.apache.rocketmq.client.impl.MQClientAPIImpl api(DefaultMQProducer client) {
        return client.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    @Override
    public void close() throws Exception {
        for (var one : toClose) {
            one.close();
        }
    }
}
