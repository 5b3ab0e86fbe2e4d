package interop;

import java.io.PrintStream;
import java.time.Duration;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Runs cases, each under a deadline, and prints one line for each: PASS or FAIL, its name, the reason. Several threads may
 * run cases at the same time.
 */
final class Report {
    private static final Duration CASE_DEADLINE = Duration.ofSeconds(45);

    interface Case {
        /** Throws to fail. The returned text is printed after the name. */
        String run() throws Exception;
    }

    private final String label;
    /** Not what `mqadmin` prints to while it runs. */
    private final PrintStream out = System.out;
    private final AtomicInteger failed = new AtomicInteger();

    Report(String label) {
        this.label = label;
    }

    boolean allPassed() {
        return failed.get() == 0;
    }

    void check(String name, Case body) {
        check(name, (int) CASE_DEADLINE.toSeconds(), body);
    }

    void check(String name, int seconds, Case body) {
        var began = System.nanoTime();
        var outcome = outcome(seconds, body);
        var took = Duration.ofNanos(System.nanoTime() - began).toMillis();
        var verdict = outcome.failure == null ? "PASS" : "FAIL";
        failed.addAndGet(outcome.failure == null ? 0 : 1);
        var detail = outcome.failure == null ? outcome.detail : outcome.failure;
        out.printf("%s %s: %s (%d ms)%s%n", verdict, label, name, took, detail.isEmpty() ? "" : ": " + detail);
        out.flush();
    }

    private record Outcome(String detail, String failure) {
    }

    private static Outcome outcome(int seconds, Case body) {
        var task = new FutureTask<>(body::run);
        var thread = new Thread(task, "case");
        thread.setDaemon(true);
        thread.start();
        try {
            var detail = task.get(seconds, TimeUnit.SECONDS);
            return new Outcome(detail == null ? "" : detail, null);
        } catch (TimeoutException e) {
            thread.interrupt();
            return new Outcome("", "no result within " + seconds + " s");
        } catch (ExecutionException e) {
            return new Outcome("", reason(e.getCause()));
        } catch (InterruptedException e) {
            return new Outcome("", "interrupted");
        }
    }

    private static String reason(Throwable cause) {
        if (cause instanceof Mismatch) {
            return cause.getMessage();
        }
        var text = new StringBuilder(String.valueOf(cause));
        for (var inner = cause.getCause(); inner != null && text.length() < 500; inner = inner.getCause()) {
            text.append(" <- ").append(inner);
        }
        var at = cause.getStackTrace();
        for (var i = 0; i < at.length; i++) {
            if (at[i].getClassName().startsWith("interop.")) {
                text.append(" at ").append(at[i].getFileName()).append(':').append(at[i].getLineNumber());
                break;
            }
        }
        return text.toString().replaceAll("\\s+", " ");
    }

    /** What was found differs from what was expected. */
    static final class Mismatch extends RuntimeException {
        Mismatch(String reason) {
            super(reason);
        }
    }

    static void require(boolean holds, String format, Object... arguments) {
        if (!holds) {
            throw new Mismatch(String.format(format, arguments));
        }
    }

    static void requireEqual(Object wanted, Object found, String what) {
        require(wanted.equals(found), "%s: wanted <%s>, found <%s>", what, wanted, found);
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    /** Polls until the condition holds; fails at the deadline. */
    static void await(int seconds, String what, Condition condition) throws Exception {
        var deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!condition.holds()) {
            require(System.nanoTime() < deadline, "not within %d s: %s", seconds, what);
            Thread.sleep(10);
        }
    }
}
