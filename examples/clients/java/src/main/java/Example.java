import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import yeta.v1.CallOutRequest;
import yeta.v1.ConfigServiceGrpc;
import yeta.v1.Line;
import yeta.v1.LineStatus;
import yeta.v1.QueryConfigRequest;
import yeta.v1.Robot;
import yeta.v1.Row;

/** Where the gateway is, and what to call: shared by the examples. */
final class Example {
  private Example() {}

  static ManagedChannel connect(String[] args) {
    String fromEnvironment = System.getenv().getOrDefault("YETA_GATEWAY", "localhost:50051");
    String address = args.length > 0 ? args[0] : fromEnvironment;
    return ManagedChannelBuilder.forTarget(address)
        .usePlaintext()
        .maxInboundMessageSize(32 << 20) // a long dialog may take more than the 4 MiB by default
        .build();
  }

  /** Two rows, to be called by a robot of the account on a line that is free. */
  static CallOutRequest callOutRequest(ManagedChannel channel) {
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
    return CallOutRequest.newBuilder()
        .setRobotId(robot.getRobotId())
        .setLineNum(line.getLineNum())
        .addAllCallColumn(robot.getCallColumnList()) // such as 客户手机号码, 姓名
        .addCallList(Row.newBuilder().addValues("13000000001").addValues("张先生"))
        .addCallList(Row.newBuilder().addValues("13000000002").addValues("王女士"))
        .build();
  }
}
