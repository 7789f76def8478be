import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentHashMap;
import yeta.v1.DirectCall;
import yeta.v1.OutboundServiceGrpc;
import yeta.v1.OutboundServiceGrpc.OutboundServiceStub;
import yeta.v1.SubmitRowsRequest;
import yeta.v1.SubmitRowsResponse;
import yeta.v1.UploadHeader;
import yeta.v1.UploadRow;
import yeta.v1.UploadRowResult;
import yeta.v1.UploadRows;

/**
 * Submits the rows of a CSV file, to be called at once, and tells what became of each.
 *
 * <pre>mvn -q compile exec:java -Dexec.mainClass=Upload -Dexec.args="ADDRESS ROWS.csv"</pre>
 *
 * The first column is the row's own id, the second its phone number. Run it again with the same
 * file, also after it broke off: what was submitted before is not submitted again.
 */
public final class Upload {
  private final OutboundServiceStub outbound;
  private final Map<String, UploadRowResult> results = new ConcurrentHashMap<>(); // by row_key

  private Upload(OutboundServiceStub outbound) {
    this.outbound = outbound;
  }

  public static void main(String[] args) throws IOException, InterruptedException {
    var messages = messages(Path.of(args.length > 1 ? args[1] : "../rows.csv"));
    ManagedChannel channel = Example.connect(args);
    try {
      var upload = new Upload(OutboundServiceGrpc.newStub(channel));
      upload.run(messages);
      upload.summarize();
    } finally {
      channel.shutdownNow();
    }
  }

  /** The header, then the rows. Where values hold commas or quotes, take a CSV library. */
  private static List<SubmitRowsRequest> messages(Path file) throws IOException {
    List<String> lines = Files.readAllLines(file);
    var columns = Arrays.asList(lines.get(0).replace("\uFEFF", "").split(",", -1));
    var header =
        UploadHeader.newBuilder()
            // The same for the same list, so that it can be sent again.
            .setUploadId(file.getFileName().toString().replaceFirst("\\.[^.]*$", ""))
            // Part of what an upload is: the same whenever it is taken up again.
            .setDirect(DirectCall.newBuilder().setRobotId("719").setLineNum("055169101408"))
            .addAllCallColumn(columns.subList(1, columns.size()));
    var messages = new ArrayList<SubmitRowsRequest>();
    messages.add(SubmitRowsRequest.newBuilder().setHeader(header).build());
    var rows = UploadRows.newBuilder();
    for (String line : lines.subList(1, lines.size())) {
      if (line.isBlank()) {
        continue;
      }
      var values = Arrays.asList(line.split(",", -1));
      rows.addRows(
          UploadRow.newBuilder()
              .setRowKey(values.get(0))
              .addAllValues(values.subList(1, values.size())));
      if (rows.getRowsCount() == 500) {
        messages.add(SubmitRowsRequest.newBuilder().setRows(rows).build());
        rows.clear();
      }
    }
    messages.add(SubmitRowsRequest.newBuilder().setRows(rows).build());
    return messages;
  }

  // README:begin
  private void run(List<SubmitRowsRequest> messages) throws InterruptedException {
    while (true) {
      try {
        submit(messages.iterator()).join();
        return;
      } catch (CompletionException error) {
        if (Status.fromThrowable(error).getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        Thread.sleep(1000); // the gateway restarts; sent again, only the rest goes out
      }
    }
  }

  /** Sends the header and the rows as the gateway takes them, and notes what it tells. */
  private CompletableFuture<Void> submit(Iterator<SubmitRowsRequest> messages) {
    var ended = new CompletableFuture<Void>();
    outbound.submitRows(
        new ClientResponseObserver<SubmitRowsRequest, SubmitRowsResponse>() {
          @Override
          public void beforeStart(ClientCallStreamObserver<SubmitRowsRequest> stream) {
            stream.setOnReadyHandler(
                () -> {
                  while (stream.isReady() && messages.hasNext()) {
                    stream.onNext(messages.next());
                    if (!messages.hasNext()) {
                      stream.onCompleted();
                    }
                  }
                });
          }

          @Override
          public void onNext(SubmitRowsResponse response) {
            if (response.hasRow()) { // otherwise it tells the progress
              results.put(response.getRow().getRowKey(), response.getRow());
            }
          }

          @Override
          public void onError(Throwable error) {
            ended.completeExceptionally(error);
          }

          @Override
          public void onCompleted() { // each row has its result
            ended.complete(null);
          }
        });
    return ended;
  }

  // README:end

  private void summarize() {
    int refused = 0;
    int unknown = 0;
    int before = 0;
    for (var row : results.values()) {
      before += row.getKnownBefore() ? 1 : 0;
      if (!row.hasError()) {
        continue;
      }
      String reason = row.getError().getReason();
      if (reason.equals("OUTCOME_UNKNOWN")) {
        unknown++;
      } else {
        refused++;
      }
      System.out.printf("row %s: %s %s%n", row.getRowKey(), reason, row.getError().getMessage());
    }
    System.out.printf(
        "done: %d accepted, %d refused, %d unknown; %d known before%n",
        results.size() - refused - unknown, refused, unknown, before);
  }
}
