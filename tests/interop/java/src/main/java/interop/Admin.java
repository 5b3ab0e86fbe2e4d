package interop;

import static interop.Report.await;
import static interop.Report.require;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Pattern;
import org.apache.commons.cli.Options;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.tools.command.MQAdminStartup;
import org.apache.rocketmq.tools.command.message.QueryMsgByIdSubCommand;

/**
 * `mqadmin` as its users run it: the same command lines, all in this JVM. Every command must print what it is
 * asked for. `mqadmin` reports its failures on standard error and exits with status 0 anyway, so that stream
 * must stay empty.
 */
final class Admin {
    private static final int MESSAGES_PER_QUEUE = 3;
    private static final int QUEUES = Target.QUEUES_PER_BROKER;

    private final Target target;
    private final String cluster;
    private final String topic;

    Admin(Target target) throws Exception {
        this.target = target;
        await(20, target.brokerCount + " broker(s) at the NameServer",
            () -> target.brokerAddresses().size() >= target.brokerCount);
        cluster = target.clusterName();
        topic = target.unique("admin");
        // 4.9 refuses to start without a logging configuration in its home directory.
        var home = Path.of(System.getProperty("user.home"));
        Files.createDirectories(home.resolve("conf"));
        Files.writeString(home.resolve("conf/logback_tools.xml"), "<configuration/>");
        System.setProperty("rocketmq.home.dir", home.toString());
    }

    void run(Report report) {
        report.check("mqadmin clusterList", this::clusterList);
        report.check("mqadmin brokerStatus", this::brokerStatus);
        report.check("mqadmin updateTopic", this::updateTopic);
        report.check("mqadmin topicList", this::topicList);
        report.check("mqadmin topicRoute", () -> topicRoute(6));
        report.check("mqadmin topicStatus", this::topicStatus);
        report.check("mqadmin updateTopicPerm closes and reopens a topic", this::updateTopicPerm);
        report.check("mqadmin deleteTopic", this::deleteTopic);
    }

    /** Commands for a broker with three replicas, which answer requests that a controller answers elsewhere. */
    void runReplicas(Report report) {
        report.check("mqadmin haStatus", this::haStatus);
        report.check("mqadmin getSyncStateSet", this::syncStateSet);
        report.check("mqadmin getBrokerEpoch", this::brokerEpoch);
        report.check("mqadmin electMaster", this::electMaster);
    }

    private String haStatus() throws Exception {
        var master = master();
        await(20, "two slaves in sync", () -> mqadmin("haStatus", "-b", master).contains("#InSyncSlaveNum\t2"));
        var rows = mqadmin("haStatus", "-b", master).lines().filter(row -> row.matches("\\S+:\\d+\\s.*\\sOK\\s.*")).toList();
        require(rows.size() == 2, "rows of two slaves: %s", rows);
        return "";
    }

    private String syncStateSet() throws Exception {
        var name = brokerName();
        var said = mqadmin("getSyncStateSet", "-a", master(), "-b", name);
        require(said.contains("#brokerName\t" + name) && said.contains("#SyncStateSetNums\t3"), "the set: %s", said);
        require(said.contains("#MasterAddr\t" + master()), "the master: %s", said);
        return "";
    }

    private String brokerEpoch() throws Exception {
        var said = mqadmin("getBrokerEpoch", "-b", brokerName());
        require(count(said, "#Epoch: ") >= 3, "an epoch of each replica: %s", said);
        return "";
    }

    /** Elects another replica. Replicas other than the leader are registered under their own numbers. */
    private String electMaster() throws Exception {
        var before = master();
        var other = target.onlyBroker().getValue().entrySet().stream().filter(one -> one.getKey() > 0).findFirst().orElseThrow();
        var said = mqadmin("electMaster", "-a", before, "-b", "" + other.getKey(), "-bn", brokerName(), "-c", cluster);
        require(said.contains("#BrokerMasterAddr\t" + other.getValue()), "the new master: %s", said);
        await(20, other.getValue() + " is the master", () -> master().equals(other.getValue()));
        return before + " to " + other.getValue();
    }

    private String brokerName() throws Exception {
        return target.onlyBroker().getKey();
    }

    private String master() throws Exception {
        return target.onlyBroker().getValue().getOrDefault(0L, "none");
    }

    private String clusterList() throws Exception {
        var rows = rows(mqadmin("clusterList"), cluster);
        require(rows.size() == target.brokerCount, "rows of %d broker(s): %s", target.brokerCount, rows);
        for (var address : target.brokerAddresses()) {
            require(rows.stream().anyMatch(row -> row.contains(address)), "no row of %s: %s", address, rows);
        }
        // At least name, number, address, version and rates.
        rows.forEach(row -> require(row.split("\\s+").length >= 8, "a short row: %s", row));
        return rows.size() + " broker(s)";
    }

    private String brokerStatus() throws Exception {
        for (var address : target.brokerAddresses()) {
            var rows = mqadmin("brokerStatus", "-b", address).lines().toList();
            for (var key : List.of("brokerVersionDesc", "bootTimestamp", "putTps", "commitLogMaxOffset", "msgPutTotalTodayNow")) {
                require(rows.stream().anyMatch(row -> row.matches("\\s*" + key + "\\s*:\\s*\\S.*")), "no %s: %s", key, rows);
            }
        }
        var all = mqadmin("brokerStatus", "-c", cluster);
        target.brokerAddresses().forEach(address -> require(all.contains(address), "nothing of %s: %s", address, all));
        return "";
    }

    private String updateTopic() throws Exception {
        var said = mqadmin("updateTopic", "-c", cluster, "-t", topic, "-r", "" + QUEUES, "-w", "" + QUEUES);
        for (var address : target.brokerAddresses()) {
            require(said.contains("create topic to " + address + " success."), "not created at %s: %s", address, said);
        }
        target.awaitRoute(topic, target.brokerCount);
        return "";
    }

    private String topicList() throws Exception {
        var topics = mqadmin("topicList").lines().map(String::trim).toList();
        require(topics.contains(topic), "%s is not in %s", topic, topics);
        // For every topic of the cluster, also its consumer groups.
        var perCluster = rows(mqadmin("topicList", "-c"), cluster);
        require(perCluster.stream().anyMatch(row -> row.contains(topic)), "%s is not in %s", topic, perCluster);
        return topics.size() + " topics";
    }

    private String topicRoute(int perm) throws Exception {
        var route = mqadmin("topicRoute", "-t", topic).replaceAll("\\s", "");
        require(count(route, "\"brokerAddrs\":") == target.brokerCount, "brokers of the route: %s", route);
        require(count(route, "\"perm\":" + perm + ",") == target.brokerCount, "permission %d: %s", perm, route);
        target.brokerAddresses().forEach(address -> require(route.contains(address), "no %s: %s", address, route));
        return "";
    }

    private String topicStatus() throws Exception {
        for (var queue : target.producer.fetchPublishMessageQueues(topic)) {
            for (var i = 0; i < MESSAGES_PER_QUEUE; i++) {
                target.producer.send(new Message(topic, Bodies.text("counted")), queue);
            }
        }
        // Broker name, queue, smallest offset, next offset, time of the newest message.
        var row = Pattern.compile("(?m)^\\S+\\s+\\d+\\s+0\\s+(\\d+)\\s+\\d{4}-\\d\\d-\\d\\d \\S+\\s*$").matcher(mqadmin("topicStatus", "-t", topic));
        var offsets = row.results().map(found -> Integer.parseInt(found.group(1))).toList();
        require(offsets.size() == QUEUES * target.brokerCount && offsets.stream().allMatch(next -> next == MESSAGES_PER_QUEUE),
            "next offsets per queue: %s", offsets);
        return offsets.size() + " queues";
    }

    private String updateTopicPerm() throws Exception {
        changePerm(6, 0);
        changePerm(0, 6);
        target.producer.send(new Message(topic, Bodies.text("reopened")));
        return "";
    }

    private void changePerm(int from, int to) throws Exception {
        var said = mqadmin("updateTopicPerm", "-c", cluster, "-t", topic, "-p", "" + to);
        var changed = "update topic perm from " + from + " to " + to;
        require(count(said, changed) == target.brokerCount, "not changed at %d broker(s): %s", target.brokerCount, said);
        await(10, "permission " + to + " in the route", () -> count(mqadmin("topicRoute", "-t", topic).replaceAll("\\s", ""),
            "\"perm\":" + to + ",") == target.brokerCount);
    }

    private String deleteTopic() throws Exception {
        var said = mqadmin("deleteTopic", "-c", cluster, "-t", topic);
        require(said.contains("delete topic [" + topic + "] from cluster [" + cluster + "] success."), "not deleted: %s", said);
        await(10, "the topic is gone", () -> !mqadmin("topicList").contains(topic));
        return "";
    }

    String queryMsgById(String id, String topic, String... more) throws Exception {
        var options = new ArrayList<>(List.of("-i", id));
        options.addAll(List.of(more));
        // 5.x needs the topic, 4.9 refuses it.
        if (new QueryMsgByIdSubCommand().buildCommandlineOptions(new Options()).hasOption("t")) {
            options.addAll(List.of("-t", topic));
        }
        return mqadmin("queryMsgById", options.toArray(String[]::new));
    }

    /** Runs one command. Returns what it prints. One at a time, because a command prints to the output of the whole JVM. */
    synchronized String mqadmin(String command, String... options) throws Exception {
        var line = new ArrayList<>(List.of(command, "-n", target.namesrv));
        line.addAll(Arrays.asList(options));
        var out = new ByteArrayOutputStream();
        var err = new ByteArrayOutputStream();
        var before = List.of(System.out, System.err);
        try (var toOut = new PrintStream(out, true, StandardCharsets.UTF_8); var toErr = new PrintStream(err, true, StandardCharsets.UTF_8)) {
            System.setOut(toOut);
            System.setErr(toErr);
            MQAdminStartup.main0(line.toArray(new String[0]), null);
        } finally {
            System.setOut(before.get(0));
            System.setErr(before.get(1));
        }
        var complaint = err.toString(StandardCharsets.UTF_8);
        require(complaint.isBlank(), "mqadmin %s: %s", String.join(" ", line), complaint.replaceAll("\\s+", " "));
        return out.toString(StandardCharsets.UTF_8);
    }

    /** Returns the lines of a table that begin with `first`. */
    private static List<String> rows(String table, String first) {
        return table.lines().map(String::trim).filter(row -> row.startsWith(first + " ") || row.startsWith(first + "\t")).toList();
    }

    private static long count(String text, String part) {
        return Pattern.compile(part, Pattern.LITERAL).matcher(text).results().count();
    }
}
