package example.vouchsafe;

import io.grpc.Status;
import io.spiffe.bundle.x509bundle.X509BundleSet;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.io.IOException;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;

/**
 * A workload that uses java-spiffe. It does one thing, named by its first argument, and tells what happened as
 * JSON lines on stdout; SPIFFE_ENDPOINT_SOCKET says where the Workload API is.
 *
 * <pre>
 * x509                          every X.509-SVID and bundle once: an `x509` event
 * source                        the SVID of an X509Source: an `x509` event
 * watch-x509                    an `x509` event for each update, until stdin closes
 * jwt AUDIENCE…                 a JWT-SVID: a `jwt` event
 * validate-jwt AUDIENCE TOKEN   check a token by the Workload API: a `validated` event
 * verify-jwt AUDIENCE TOKEN     check a token offline with the JWT bundles: a `validated` event
 * </pre>
 */
public final class Peer {
    private static final Duration TIMEOUT = Duration.ofSeconds(30);

    private Peer() {}

    public static void main(String[] arguments) {
        int exitCode = 0;
        try {
            run(arguments);
        } catch (Exception error) {
            emit("error", "\"code\":" + quote(code(error)) + ",\"message\":" + quote(causes(error)));
            exitCode = 1;
        }
        // java-spiffe keeps threads that would hold the process.
        System.exit(exitCode);
    }

    private static void run(String[] arguments) throws Exception {
        String verb = arguments.length == 0 ? "" : arguments[0];
        switch (verb) {
            case "x509" -> {
                try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
                    tell(client.fetchX509Context());
                }
            }
            case "source" -> source();
            case "watch-x509" -> watch();
            case "jwt" -> {
                String[] more = Arrays.copyOfRange(arguments, 2, arguments.length);
                try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
                    JwtSvid svid = client.fetchJwtSvid(arguments[1], more);
                    emit("jwt", "\"token\":" + quote(svid.marshal()) + "," + describe(svid));
                }
            }
            case "validate-jwt" -> {
                try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
                    emit("validated", describe(client.validateJwtSvid(arguments[2], arguments[1])));
                }
            }
            case "verify-jwt" -> {
                try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
                    var bundles = client.fetchJwtBundles();
                    JwtSvid svid = JwtSvid.parseAndValidate(arguments[2], bundles, Set.of(arguments[1]));
                    emit("validated", describe(svid));
                }
            }
            default -> throw new IllegalArgumentException("no such verb: " + verb);
        }
    }

    private static void source() throws Exception {
        var options = DefaultX509Source.X509SourceOptions.builder().initTimeout(TIMEOUT).build();
        try (DefaultX509Source source = DefaultX509Source.newSource(options)) {
            X509Svid svid = source.getX509Svid();
            var bundle = source.getBundleForTrustDomain(svid.getSpiffeId().getTrustDomain());
            tell(X509Context.of(List.of(svid), X509BundleSet.of(List.of(bundle))));
        }
    }

    private static void watch() throws Exception {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            client.watchX509Context(new Watcher<>() {
                @Override
                public void onUpdate(X509Context update) {
                    tell(update);
                }

                @Override
                public void onError(Throwable error) {
                    emit("stream", "\"code\":" + quote(code(error)) + ",\"message\":" + quote(causes(error)));
                }
            });
            waitForEndOfInput();
        }
    }

    private static void waitForEndOfInput() throws IOException {
        byte[] buffer = new byte[256];
        while (System.in.read(buffer) >= 0) {
            continue;
        }
    }

    private static void tell(X509Context context) {
        String svids = context.getX509Svids().stream().map(Peer::describe).collect(Collectors.joining(","));
        String bundles = context.getX509BundleSet().getBundles().values().stream()
                .map(bundle -> quote(bundle.getTrustDomain().getName()) + ":" + bundle.getX509Authorities().size())
                .collect(Collectors.joining(","));
        emit("x509", "\"svids\":[" + svids + "],\"bundles\":{" + bundles + "}");
    }

    private static String describe(X509Svid svid) {
        return "{\"spiffe_id\":" + quote(svid.getSpiffeId().toString())
                + ",\"serial\":" + quote(svid.getLeaf().getSerialNumber().toString(16))
                + ",\"not_after\":" + svid.getLeaf().getNotAfter().getTime() / 1000
                + ",\"chain\":" + svid.getChain().size()
                + ",\"hint\":" + quote(svid.getHint()) + "}";
    }

    private static String describe(JwtSvid svid) {
        String audience = svid.getAudience().stream().sorted().map(Peer::quote).collect(Collectors.joining(","));
        return "\"spiffe_id\":" + quote(svid.getSpiffeId().toString())
                + ",\"audience\":[" + audience + "]"
                + ",\"expires_at\":" + svid.getExpiry().getTime() / 1000;
    }

    /** The gRPC status code somewhere along an error's causes. */
    private static String code(Throwable error) {
        Status status = Status.fromThrowable(error);
        boolean told = status.getCode() != Status.Code.UNKNOWN || status.getCause() == null;
        return told ? status.getCode().name() : null;
    }

    private static String causes(Throwable error) {
        StringBuilder text = new StringBuilder(String.valueOf(error.getMessage()));
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            text.append(": ").append(cause.getMessage());
        }
        return text.toString();
    }

    private static synchronized void emit(String event, String members) {
        System.out.println("{\"event\":" + quote(event) + "," + members + "}");
        System.out.flush();
    }

    private static String quote(String text) {
        if (text == null) {
            return "null";
        }
        StringBuilder quoted = new StringBuilder("\"");
        for (char letter : text.toCharArray()) {
            if (letter == '"' || letter == '\\') {
                quoted.append('\\').append(letter);
            } else if (letter < ' ') {
                quoted.append(String.format("\\u%04x", (int) letter));
            } else {
                quoted.append(letter);
            }
        }
        return quoted.append('"').toString();
    }
}
