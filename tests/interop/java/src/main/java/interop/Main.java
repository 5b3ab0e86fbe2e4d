package interop;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.Message;

/**
 * The program's commands; several can be joined by `+`. Options are `name=value`; `namesrv`, `prefix`, `label`,
 * `brokers` (how many there are) and `auto-create` (yes or no) apply to all commands.
 *
 * <pre>
 * suite       all cases of producer and consumer
 * routes      those of them about routes and topics
 * admin       mqadmin's commands
 * replicas    those about replicas (5.x only)
 * features    filters, namespaces, traces
 * ordered     a group of orderly consumers
 * ordered-consume  one of them, in its own process        topic=NAME group=NAME
 * member      a member of a group, in its own process       topic=NAME group=NAME
 * push        push consumers: groups, retries, dead letters, resets
 * topics      creates topics for the other languages        names=a,b
 * send        sends a mixture for others to read            manifest=FILE
 * verify      reads back what others sent                   manifests=NAME=FILE,...
 * survive     sends to a topic that exists and reads back   topic=NAME
 * survive-consume  push consumers, before and after          topic=NAME begun=FILE gone=FILE
 * crash-send  sends until the file exists                   manifest=FILE stop=FILE pause-ms=N
 * failover-consume  consumes what crash-send sends             manifest=FILE begun=FILE stop=FILE
 * failover    sends until the file exists; none may fail    topic=NAME producers=N manifest=FILE stop=FILE
 * crash-check every acknowledged message is there           manifest=FILE
 * crash-consume   members of a group, until the file exists topic=NAME group=NAME members=N deliveries=FILE stop=FILE
 * crash-consumed  checks what the group consumed            manifest=FILE deliveries=FILE kills=N
 * </pre>
 */
public final class Main {
    private Main() {
    }

    /** Exits explicitly: client threads that are not daemons must not keep a finished program alive. */
    public static void main(String[] arguments) {
        try {
            System.exit(run(arguments) ? 0 : 1);
        } catch (Throwable unexpected) {
            unexpected.printStackTrace();
            System.exit(2);
        }
    }

    private static boolean run(String[] arguments) throws Exception {
        var options = options(arguments);
        var report = new Report(options.getOrDefault("label", ""));
        var autoCreate = options.getOrDefault("auto-create", "no").equals("yes");
        var brokerCount = Integer.parseInt(options.getOrDefault("brokers", "1"));
        try (var target = new Target(options.get("namesrv"), options.get("prefix"), autoCreate, brokerCount)) {
            for (var command : arguments[0].split("\\+")) {
                run(command, target, report, options);
            }
        }
        return report.allPassed();
    }

    private static void run(String command, Target target, Report report, Map<String, String> options) throws Exception {
        switch (command) {
            case "suite" -> {
                new Topics(target).run(report);
                new Sending(target).run(report);
                new Offsets(target).run(report);
                new Delayed(target).run(report);
            }
            case "admin" -> new Admin(target).run(report);
            case "replicas" -> new Admin(target).runReplicas(report);
            case "features" -> new Features(target).run(report);
            case "ordered" -> new Ordered(target, target.newTopic("ordered"), target.unique("ordered")).run(report);
            case "ordered-consume" -> Ordered.consume(target, options.get("topic"), options.get("group"));
            case "member" -> Members.consume(target, options.get("topic"), options.get("group"));
            case "push" -> new Push(target).run(report);
            case "routes" -> new Topics(target).run(report);
            case "topics" -> createTopics(target, options.get("names"));
            case "send" -> send(target, Path.of(options.get("manifest")));
            case "verify" -> verify(target, report, options.get("manifests"));
            case "survive" -> report.check("sends and reads", () -> survive(target, options.get("topic")));
            case "survive-consume" -> report.check("a push consumer continues, and a new one starts", 150,
                () -> new Survivors(target, options.get("topic")).run(Path.of(options.get("begun")), Path.of(options.get("gone"))));
            case "crash-send" -> new Crash(target).send(Path.of(options.get("manifest")), Path.of(options.get("stop")),
                Integer.parseInt(options.getOrDefault("pause-ms", "0")));
            case "failover-consume" -> report.check("a push consumer gets every acknowledged message", 200,
                () -> new Crash(target)
                    .consume(Path.of(options.get("manifest")), Path.of(options.get("begun")), Path.of(options.get("stop"))));
            case "failover" -> report.check("no send fails while a machine dies", Failover.SEND_DEADLINE_S + 10, () -> new Failover(target)
                .run(options.get("topic"), Integer.parseInt(options.get("producers")), Path.of(options.get("manifest")), Path.of(options.get("stop"))));
            case "crash-check" -> report.check("every acknowledged message is read back",
                () -> new Crash(target).verify(Path.of(options.get("manifest"))));
            case "crash-consume" -> new CrashConsumers(target).consume(options.get("topic"), options.get("group"),
                Integer.parseInt(options.get("members")), Path.of(options.get("deliveries")), Path.of(options.get("stop")));
            case "crash-consumed" -> report.check("every acknowledged message was consumed, nothing again that was committed",
                () -> new CrashConsumers(target).verify(Path.of(options.get("manifest")), Path.of(options.get("deliveries")),
                    Integer.parseInt(options.get("kills"))));
            default -> throw new IllegalArgumentException("unknown command: " + command);
        }
    }

    private static Map<String, String> options(String[] arguments) {
        var options = new LinkedHashMap<String, String>();
        for (var argument : Arrays.asList(arguments).subList(1, arguments.length)) {
            var at = argument.indexOf('=');
            options.put(argument.substring(0, at), argument.substring(at + 1));
        }
        return options;
    }

    private static void createTopics(Target target, String names) throws Exception {
        for (var name : names.split(",")) {
            target.newTopic(name);
        }
    }

    private static void send(Target target, Path manifest) throws Exception {
        var topic = target.newTopic("java");
        var sent = new ArrayList<Sent>();
        for (var size : new int[] {1, 4096, 4097, 64 * Bodies.KIB, Bodies.MIB}) {
            sent.add(Sending.sendSync(target.producer, new Message(topic, "从Java", "java-c-" + size, Bodies.compressible(size, 7)),
                Map.of("来源", "Java 客户端", "size", "" + size)));
            sent.add(Sending.sendSync(target.producer, new Message(topic, "TagB", "java-r-" + size, Bodies.random(size, 7)), Map.of()));
        }
        var messages = new ArrayList<Message>();
        var properties = new ArrayList<Map<String, String>>();
        for (var i = 0; i < 20; i++) {
            messages.add(new Message(topic, "batch", "java-b-" + i, Bodies.text("批量第" + i + "条")));
            properties.add(Map.of("i", "" + i));
        }
        sent.addAll(Sending.sendBatch(target.producer, messages, properties, null));
        Sent.writeManifest(manifest, sent);
    }

    /**
     * Asks no NameServer for more than the client itself does, because some may be gone. A 5.x client that
     * starts then fails while it happens to try one of those, and finds out within seconds which are up.
     */
    private static String survive(Target target, String topic) throws Exception {
        var attempts = new AtomicInteger();
        Report.await(30, "sends and reads in " + topic, () -> {
            attempts.incrementAndGet();
            try {
                sendAndRead(target, topic);
                return true;
            } catch (MQClientException | IllegalStateException notConnected) {
                return false;
            }
        });
        return attempts + " attempt(s)";
    }

    private static void sendAndRead(Target target, String topic) throws Exception {
        var sent = new ArrayList<Sent>();
        for (var i = 0; i < 20; i++) {
            sent.add(Sending.sendSync(target.producer,
                new Message(topic, "survive", target.unique("survive"), Bodies.random(200, i)), Map.of()));
        }
        Reading.requireAll(sent, Reading.readTopic(target, topic, sent.size()));
    }

    private static void verify(Target target, Report report, String manifests) {
        for (var named : List.of(manifests.split(","))) {
            var at = named.indexOf('=');
            var file = Path.of(named.substring(at + 1));
            report.check("reads what " + named.substring(0, at) + " sent", () -> verify(target, file));
        }
    }

    private static String verify(Target target, Path manifest) throws Exception {
        var byTopic = new LinkedHashMap<String, List<Sent>>();
        var count = 0;
        for (var one : Sent.readManifest(manifest)) {
            byTopic.computeIfAbsent(one.topic(), any -> new ArrayList<>()).add(one);
            count++;
        }
        Report.require(count > 0, "the manifest is empty");
        for (var topic : byTopic.values()) {
            Reading.requireExactly(target, topic);
        }
        return count + " messages of " + byTopic.size() + " topic(s)";
    }
}
