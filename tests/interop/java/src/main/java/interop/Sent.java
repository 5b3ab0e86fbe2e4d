package interop;

import java.io.IOException;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * What one message must look like when it is read back, whichever program sent it. A list of these is
 * a manifest. Its file form (one line each, columns separated by tabs, each column percent-encoded)
 * is how the programs of the three languages exchange what they sent. README.md lists the columns.
 *
 * <p>Unknown is empty for texts and -1 for numbers: a one-way send gets neither offset nor id.
 */
record Sent(String topic, String broker, int queue, long offset, String msgId, String offsetMsgId,
            String tags, String keys, Map<String, String> properties, int bodySize, String bodySha256) {

    /** Before the send: the offset is not known yet. `properties` are the user's own. */
    static Sent unplaced(Message message, Map<String, String> properties) {
        return new Sent(message.getTopic(), "", -1, -1, "", "", text(message.getTags()), text(message.getKeys()),
            new TreeMap<>(properties), message.getBody().length, sha256(message.getBody()));
    }

    /** A message as a consumer has received it, without properties. */
    static Sent delivered(MessageExt message) {
        return new Sent(message.getTopic(), message.getBrokerName(), message.getQueueId(), message.getQueueOffset(), message.getMsgId(),
            "", text(message.getTags()), text(message.getKeys()), Map.of(), message.getBody().length, sha256(message.getBody()));
    }

    Sent placed(SendResult result) {
        return placed(result, 0, result.getMsgId(), result.getOffsetMsgId());
    }

    /** The message at `index` of a batch that was sent as one. */
    Sent placed(SendResult result, int index, String msgId, String offsetMsgId) {
        var at = result.getMessageQueue();
        return new Sent(topic, at.getBrokerName(), at.getQueueId(), result.getQueueOffset() + index,
            text(msgId), text(offsetMsgId), tags, keys, properties, bodySize, bodySha256);
    }

    boolean isPlaced() {
        return offset >= 0;
    }

    String place() {
        return broker + "/" + queue + "/" + offset;
    }

    String line() {
        var pairs = new ArrayList<String>();
        properties.forEach((name, value) -> pairs.add(encode(name) + "=" + encode(value)));
        return String.join("\t", encode(topic), encode(broker), "" + queue, "" + offset, encode(msgId),
            encode(offsetMsgId), encode(tags), encode(keys), String.join("&", pairs), "" + bodySize, bodySha256);
    }

    static Sent parse(String line) {
        var column = line.split("\t", -1);
        if (column.length != 11) {
            throw new IllegalArgumentException("a manifest line has 11 columns: " + line);
        }
        var properties = new TreeMap<String, String>();
        for (var pair : column[8].isEmpty() ? new String[0] : column[8].split("&")) {
            var at = pair.indexOf('=');
            properties.put(decode(pair.substring(0, at)), decode(pair.substring(at + 1)));
        }
        return new Sent(decode(column[0]), decode(column[1]), Integer.parseInt(column[2]), Long.parseLong(column[3]),
            decode(column[4]), decode(column[5]), decode(column[6]), decode(column[7]), properties,
            Integer.parseInt(column[9]), column[10]);
    }

    static List<Sent> readManifest(Path file) throws IOException {
        try (var lines = Files.lines(file)) {
            return lines.filter(line -> !line.isEmpty()).map(Sent::parse).toList();
        }
    }

    static void writeManifest(Path file, List<Sent> sent) throws IOException {
        Files.write(file, sent.stream().map(Sent::line).toList());
    }

    static String sha256(byte[] bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every JDK has SHA-256", e);
        }
    }

    private static String text(String maybe) {
        return maybe == null ? "" : maybe;
    }

    private static String encode(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static String decode(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }
}
