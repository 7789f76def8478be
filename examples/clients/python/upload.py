"""Submits the rows of a CSV file, to be called at once, and tells what became of each.

    python upload.py [ADDRESS [ROWS.csv]]

The first column is the row's own id, the second its phone number. Run it again with the same file,
also after it broke off: what was submitted before is not submitted again.
"""

import csv
import sys
import time
from itertools import islice
from pathlib import Path

import grpc
from gateway import connect
from yeta.v1.outbound_pb2_grpc import OutboundServiceStub
from yeta.v1.upload_pb2 import DirectCall, SubmitRowsRequest, UploadHeader, UploadRow, UploadRows

ROWS = Path(__file__).resolve().parents[1] / "rows.csv"
# Part of what an upload is: the same whenever it is taken up again.
ROBOT, LINE = "719", "055169101408"


def main():
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    with connect() as channel:
        results = upload(OutboundServiceStub(channel), path).values()
    errors = [row for row in results if row.HasField("error")]
    for row in errors:
        print(f"row {row.row_key}: {row.error.reason} {row.error.message}")
    unknown = sum(row.error.reason == "OUTCOME_UNKNOWN" for row in errors)
    before = sum(row.known_before for row in results)
    accepted, refused = len(results) - len(errors), len(errors) - unknown
    print(f"done: {accepted} accepted, {refused} refused, {unknown} unknown; {before} known before")


# README:begin
def messages(path):
    """The header, then the rows, read from the file as the gateway takes them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = filter(None, csv.reader(file))
        _, *columns = next(rows)
        header = UploadHeader(
            upload_id=path.stem,  # the same for the same list, so that it can be sent again
            direct=DirectCall(robot_id=ROBOT, line_num=LINE),  # or task_id=…
            call_column=columns,
        )
        yield SubmitRowsRequest(header=header)
        while some := list(islice(rows, 500)):
            some = [UploadRow(row_key=key, values=values) for key, *values in some]
            yield SubmitRowsRequest(rows=UploadRows(rows=some))


def upload(outbound, path):
    results = {}
    while True:
        try:
            # A thread of the library's own sends, while this one reads.
            for response in outbound.SubmitRows(messages(path)):
                if response.HasField("row"):
                    results[response.row.row_key] = response.row
            return results
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)  # the gateway restarts; sent again, only the rest goes out


# README:end


if __name__ == "__main__":
    main()
