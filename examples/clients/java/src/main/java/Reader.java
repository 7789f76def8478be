import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import yeta.v1.CallRecord;
import yeta.v1.Position;
import yeta.v1.PushEvent;
import yeta.v1.PushServiceGrpc;
import yeta.v1.PushServiceGrpc.PushServiceBlockingStub;
import yeta.v1.SubscribePushesRequest;
import yeta.v1.SubscribePushesResponse;

/**
 * Prints every push that a gateway holds, and then what comes: a reader that keeps its own place.
 *
 * <pre>mvn -q compile exec:java -Dexec.mainClass=Reader -Dexec.args=ADDRESS</pre>
 */
public final class Reader {
  private Reader() {}

  public static void main(String[] args) throws InterruptedException {
    read(PushServiceGrpc.newBlockingStub(Example.connect(args)));
  }

  private static void read(PushServiceBlockingStub pushes) throws InterruptedException {
    // README:begin
    var request = SubscribePushesRequest.newBuilder().setPosition(Position.POSITION_EARLIEST);
    while (true) {
      try {
        // What `take` gives is the place to go on from, after a restart too: keep it with what
        // was stored.
        pushes
            .subscribePushes(request.build())
            .forEachRemaining(response -> request.setCursor(take(response)));
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts; then we go on from the cursor
      }
    }
    // README:end
  }

  /** Prints an event, and gives the cursor to go on from. */
  private static String take(SubscribePushesResponse response) {
    if (response.hasProgress()) {
      return response.getProgress().getCursor();
    }
    PushEvent event = response.getEvent();
    switch (event.getPayloadCase()) {
      case CALL_RECORD -> {
        CallRecord record = event.getCallRecord();
        System.out.printf(
            "call record %s %s %d s%n",
            record.getCallUuid(), record.getTaskResultDesc(), record.getDurationCall());
      }
      case VOICE ->
          System.out.printf(
              "recording   %s %s%n",
              event.getVoice().getCallUuid(), event.getVoice().getAbsoluteUrl());
      case DIALOG ->
          System.out.printf(
              "dialog      %s %d turns%n",
              event.getDialog().getCallUuid(), event.getDialog().getDialogCount());
      case CALL ->
          System.out.printf(
              "call        %s revision %d%n",
              event.getCall().getCallUuid(), event.getCall().getRevision());
      default ->
          System.out.printf(
              "other push  %s: %s%n",
              event.getUnrecognized().getModule(), event.getUnrecognized().getReason());
    }
    return event.getCursor();
  }
}
