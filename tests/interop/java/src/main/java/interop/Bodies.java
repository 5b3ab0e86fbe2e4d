package interop;

import java.nio.charset.StandardCharsets;
import java.util.Random;

/** Message bodies that depend only on size and seed. */
final class Bodies {
    static final int KIB = 1024;
    static final int MIB = 1024 * KIB;
    /** The largest body that the reference broker accepts. */
    static final int SIZE_MAX = 4 * MIB;

    private Bodies() {
    }

    /** Shrinks to a fraction when compressed. Chinese text, so that sizes cut characters anywhere. */
    static byte[] compressible(int size, long seed) {
        var line = ("订单 " + seed + " 已付款, the order is paid; ").getBytes(StandardCharsets.UTF_8);
        var body = new byte[size];
        for (var i = 0; i < size; i++) {
            body[i] = line[i % line.length];
        }
        return body;
    }

    /** Grows a little when compressed. */
    static byte[] random(int size, long seed) {
        var body = new byte[size];
        new Random(seed * 1_000_003 + size).nextBytes(body);
        return body;
    }

    static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
