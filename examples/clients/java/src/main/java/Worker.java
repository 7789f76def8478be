import com.google.protobuf.Duration;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import yeta.v1.AckPushesRequest;
import yeta.v1.Call;
import yeta.v1.NackPushesRequest;
import yeta.v1.Position;
import yeta.v1.PushEvent;
import yeta.v1.PushFilter;
import yeta.v1.PushKind;
import yeta.v1.PushServiceGrpc;
import yeta.v1.PushServiceGrpc.PushServiceBlockingStub;
import yeta.v1.SubscribePushesRequest;

/**
 * Processes the results of calls, sharing them with every other worker on the same subscription.
 *
 * <pre>mvn -q compile exec:java -Dexec.mainClass=Worker -Dexec.args=ADDRESS</pre>
 *
 * On SIGTERM or Ctrl-C it finishes the call at hand, acknowledges it, and ends.
 */
public final class Worker {
  private static final String SUBSCRIPTION = "call-results";

  private final ManagedChannel channel;
  private final PushServiceBlockingStub pushes;
  private final Acks acks = new Acks();
  private volatile boolean stopping;

  private Worker(ManagedChannel channel) {
    this.channel = channel;
    pushes = PushServiceGrpc.newBlockingStub(channel);
  }

  public static void main(String[] args) throws InterruptedException {
    Worker worker = new Worker(Example.connect(args));
    Runtime.getRuntime().addShutdownHook(new Thread(worker::stop));
    worker.run();
  }

  /**
   * What the service is there for. A call may come again: after a crash, or with more known of it
   * and a higher revision. Store it by its call_uuid, and let the highest revision win.
   */
  private static void handle(Call call) {
    if (!call.hasCallRecord()) {
      throw new IllegalArgumentException("the call has no record");
    }
    System.out.printf(
        "handled: %s %s %s%n", call.getTaskDataId(), call.getState(), call.getOutcome());
  }

  // README:begin
  private void run() throws InterruptedException {
    var request =
        SubscribePushesRequest.newBuilder()
            .setSubscription(SUBSCRIPTION) // the same in all replicas of the service: they share it
            .setPosition(Position.POSITION_EARLIEST) // where it begins when it is new
            .setFilter(PushFilter.newBuilder().addKinds(PushKind.PUSH_KIND_CALL)) // one each call
            .setMaxInFlight(64) // what is handled well within the ack deadline, 30 s
            .build();
    while (!stopping) {
      try {
        pushes
            .subscribePushes(request)
            .forEachRemaining(
                response -> {
                  if (response.hasEvent()) {
                    take(response.getEvent());
                  }
                });
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts; what is not acknowledged comes again
      }
    }
  }

  private synchronized void take(PushEvent event) {
    if (stopping) {
      return; // goes to another worker
    }
    try {
      handle(event.getCall());
      acks.add(event.getAckId());
    } catch (RuntimeException error) { // comes again; after ten attempts it is set aside
      pushes.nackPushes(
          NackPushesRequest.newBuilder()
              .setSubscription(SUBSCRIPTION)
              .addAckIds(event.getAckId())
              .setDelay(Duration.newBuilder().setSeconds(1))
              .setReason(error.getMessage())
              .build());
    }
  }

  /** Waits for the call at hand; what was handled is acknowledged before the stream ends. */
  private synchronized void stop() {
    stopping = true;
    acks.close();
    channel.shutdownNow();
    System.out.println("stopped");
  }

  // README:end

  /** Acknowledges in batches: in one request whatever was handled during the one before. */
  private final class Acks {
    private final LinkedBlockingQueue<String> handled = new LinkedBlockingQueue<>();
    private final ExecutorService sender = Executors.newSingleThreadExecutor();

    void add(String ackId) {
      handled.add(ackId);
      sender.execute(this::send);
    }

    private void send() {
      List<String> ids = new ArrayList<>();
      if (handled.drainTo(ids) == 0) {
        return;
      }
      try {
        pushes.ackPushes(
            AckPushesRequest.newBuilder().setSubscription(SUBSCRIPTION).addAllAckIds(ids).build());
      } catch (StatusRuntimeException error) {
        System.err.printf("%d calls not acknowledged, they come again: %s%n", ids.size(), error);
      }
    }

    void close() {
      sender.shutdown();
      try {
        sender.awaitTermination(10, TimeUnit.SECONDS);
      } catch (InterruptedException error) {
        Thread.currentThread().interrupt();
      }
    }
  }
}
