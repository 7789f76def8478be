import io.grpc.Channel;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.HashMap;
import java.util.Map;
import java.util.UUID;
import yeta.v1.Call;
import yeta.v1.CallOutRequest;
import yeta.v1.CallOutResponse;
import yeta.v1.CallServiceGrpc;
import yeta.v1.OutboundServiceGrpc;
import yeta.v1.OutboundServiceGrpc.OutboundServiceBlockingStub;
import yeta.v1.WatchCallsRequest;

/**
 * Calls two numbers through yeta-gateway and waits for what becomes of each call.
 *
 * <pre>mvn -q compile exec:java -Dexec.mainClass=Watch -Dexec.args=ADDRESS</pre>
 */
public final class Watch {
  private Watch() {}

  public static void main(String[] args) throws InterruptedException {
    ManagedChannel channel = Example.connect(args);
    try {
      callAndWait(channel, Example.callOutRequest(channel))
          .forEach(
              (row, call) ->
                  System.out.printf(
                      "done: %s %s %s %d turns %s%n",
                      row,
                      call.getState(),
                      call.getOutcome(),
                      call.getDialog().getDialogCount(),
                      call.getVoice().getAbsoluteUrl()));
    } finally {
      channel.shutdownNow();
    }
  }

  private static Map<String, Call> callAndWait(Channel channel, CallOutRequest request)
      throws InterruptedException {
    // README:begin
    var called = callOut(OutboundServiceGrpc.newBlockingStub(channel), request);
    System.out.println("called: " + called.getTaskDataIdsList());
    var watch =
        WatchCallsRequest.newBuilder()
            .addAllTaskDataIds(called.getTaskDataIdsList())
            .setPushCursor(called.getPushCursor()) // from here on nothing of them is missed
            .build();
    var results = new HashMap<String, Call>();
    while (results.size() < called.getTaskDataIdsCount()) {
      try {
        CallServiceGrpc.newBlockingStub(channel)
            .watchCalls(watch)
            .forEachRemaining(
                response -> results.put(response.getCall().getTaskDataId(), response.getCall()));
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts; then we ask again
      }
    }
    // README:end
    return results;
  }

  // README:begin call_out
  private static CallOutResponse callOut(
      OutboundServiceBlockingStub outbound, CallOutRequest request) throws InterruptedException {
    String requestId = UUID.randomUUID().toString(); // keep it: under it, nobody is called twice
    request = request.toBuilder().setRequestId(requestId).build();
    for (int tries = 1; ; tries++) {
      try {
        return outbound.callOut(request);
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE || tries == 30) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts, or the platform is away; then we ask again
      }
    }
  }
  // README:end call_out
}
