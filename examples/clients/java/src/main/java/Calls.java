import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import yeta.v1.CallOutRequest;
import yeta.v1.CallRecord;
import yeta.v1.ConfigServiceGrpc;
import yeta.v1.DialogTurn;
import yeta.v1.Line;
import yeta.v1.LineStatus;
import yeta.v1.OutboundServiceGrpc;
import yeta.v1.PushEvent;
import yeta.v1.PushServiceGrpc;
import yeta.v1.QueryConfigRequest;
import yeta.v1.Robot;
import yeta.v1.Row;
import yeta.v1.SubscribePushesRequest;
import yeta.v1.SubscribePushesResponse;
import yeta.v1.Voice;

/**
 * Calls two numbers through yeta-gateway and prints what comes back of the calls.
 *
 * <pre>mvn -q compile exec:java -Dexec.args=ADDRESS</pre>
 */
public final class Calls {
  private static final List<Row> ROWS =
      List.of(
          Row.newBuilder().addValues("13000000001").addValues("张先生").build(),
          Row.newBuilder().addValues("13000000002").addValues("王女士").build());

  /** How many pushes of each row have come. */
  private final Map<String, Integer> pushes = new HashMap<>();

  private final Set<String> answered = new HashSet<>();

  public static void main(String[] args) throws InterruptedException {
    String fromEnvironment = System.getenv().getOrDefault("YETA_GATEWAY", "localhost:50051");
    String address = args.length > 0 ? args[0] : fromEnvironment;
    ManagedChannel channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
    try {
      var config =
          ConfigServiceGrpc.newBlockingStub(channel)
              .queryConfig(QueryConfigRequest.getDefaultInstance());
      Robot robot =
          config.getRobotsList().stream()
              .filter(any -> any.getRobotId().equals("719"))
              .findFirst()
              .orElseThrow();
      Line line =
          config.getLinesList().stream()
              .filter(any -> any.getStatus() == LineStatus.LINE_STATUS_IDLE)
              .findFirst()
              .orElseThrow();
      call(channel, robot, line);
    } finally {
      channel.shutdownNow();
    }
  }

  private static void call(ManagedChannel channel, Robot robot, Line line)
      throws InterruptedException {
    // README:begin
    var call =
        CallOutRequest.newBuilder()
            .setRobotId(robot.getRobotId())
            .setLineNum(line.getLineNum())
            .addAllCallColumn(robot.getCallColumnList()) // such as 客户手机号码, 姓名
            .addAllCallList(ROWS);
    var called = OutboundServiceGrpc.newBlockingStub(channel).callOut(call.build());
    var pushes = PushServiceGrpc.newBlockingStub(channel);
    var request = SubscribePushesRequest.newBuilder();
    request.getFilterBuilder().addAllTaskDataIds(called.getTaskDataIdsList());
    request.setCursor(called.getPushCursor()); // a stream from here misses nothing of these calls
    var calls = new Calls(called.getTaskDataIdsList());
    while (!calls.complete()) {
      try {
        var responses = pushes.subscribePushes(request.build());
        while (!calls.complete() && responses.hasNext()) {
          request.setCursor(calls.take(responses.next())); // of the event or the progress: keep it
        }
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts; then we go on from the cursor
      }
    }
    // README:end
  }

  private Calls(List<String> taskDataIds) {
    taskDataIds.forEach(id -> pushes.put(id, 0));
    System.out.println("called: " + String.join(" ", taskDataIds));
  }

  /**
   * Whether everything has come: two records of each call, and if it was answered a recording and a
   * dialog. They come in any order.
   */
  private boolean complete() {
    return pushes.entrySet().stream()
        .allMatch(call -> call.getValue() == (answered.contains(call.getKey()) ? 4 : 2));
  }

  /** Prints an event, and gives the cursor to go on from. */
  private String take(SubscribePushesResponse response) {
    if (response.hasProgress()) {
      return response.getProgress().getCursor();
    }
    PushEvent event = response.getEvent();
    switch (event.getPayloadCase()) {
      case CALL_RECORD -> {
        CallRecord record = event.getCallRecord();
        System.out.printf(
            "call record %s %s %d s%n",
            record.getVariant(), record.getTaskResultDesc(), record.getDurationCall());
        count(record.getTaskDataId(), record.getTimeAnswer() > 0);
      }
      case VOICE -> {
        Voice voice = event.getVoice();
        System.out.printf("recording   %s %d s%n", voice.getAbsoluteUrl(), voice.getDuration());
        count(voice.getTaskDataId(), true);
      }
      case DIALOG -> {
        for (DialogTurn turn : event.getDialog().getDialogList()) {
          String text = turn.getTextMan().isEmpty() ? turn.getTextRobot() : turn.getTextMan();
          System.out.printf("dialog      %s: %s%n", turn.getRoleCode(), text);
        }
        count(event.getDialog().getTaskDataId(), true);
      }
      default -> {} // no other push carries a row's id
    }
    return event.getCursor();
  }

  private void count(String taskDataId, boolean isAnswered) {
    pushes.merge(taskDataId, 1, Integer::sum);
    if (isAnswered) {
      answered.add(taskDataId);
    }
  }
}
