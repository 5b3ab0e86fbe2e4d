package interop;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.util.function.Consumer;

/** A member of a group in a process of its own, which can be killed. Each line that it prints is passed to `printed`. */
final class Child implements AutoCloseable {
    private final Process process;

    /** Runs a command of `Main` with a topic and a group. */
    Child(Target target, String command, String topic, String group, Consumer<String> printed) throws IOException {
        var java = new File(System.getProperty("java.home"), "bin/java").getPath();
        process = new ProcessBuilder(java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Duser.home=" + System.getProperty("user.home"),
            "-Drocketmq.client.logRoot=" + System.getProperty("rocketmq.client.logRoot"), "-Drocketmq.client.logLevel=ERROR",
            "-cp", System.getProperty("java.class.path"), "interop.Main", command, "namesrv=" + target.namesrv,
            "prefix=" + target.prefix + "_child", "topic=" + topic, "group=" + group)
            .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        var reader = new Thread(() -> {
            try (var lines = new BufferedReader(new InputStreamReader(process.getInputStream()))) {
                lines.lines().forEach(printed);
            } catch (IOException | UncheckedIOException killed) {
                // What the child had not written yet is unknown.
            }
        });
        reader.setDaemon(true);
        reader.start();
    }

    /** Ends the process with SIGKILL. */
    void kill() throws InterruptedException {
        process.destroyForcibly().waitFor();
    }

    @Override
    public void close() {
        process.destroyForcibly();
    }
}
