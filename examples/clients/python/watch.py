"""Calls two numbers through yeta-gateway and waits for what becomes of each call.

    python watch.py [ADDRESS]
"""

import time
import uuid
from itertools import count

import grpc
from gateway import call_out_request, connect
from yeta.v1.call_pb2 import CallOutcome, CallState, WatchCallsRequest
from yeta.v1.call_pb2_grpc import CallServiceStub
from yeta.v1.outbound_pb2_grpc import OutboundServiceStub


def main():
    with connect() as channel:
        for call in call_and_wait(channel, call_out_request(channel)).values():
            state = CallState.Name(call.state).removeprefix("CALL_STATE_")
            outcome = CallOutcome.Name(call.outcome).removeprefix("CALL_OUTCOME_")
            turns, recording = len(call.dialog.dialog), call.voice.absolute_url or "no recording"
            print(f"done: {call.task_data_id} {state} {outcome}, {turns} turns, {recording}")


# README:begin call_out
def call_out(outbound, request):
    request.request_id = str(uuid.uuid4())  # keep it: under it, nobody is called twice
    for tries in count(1):
        try:
            return outbound.CallOut(request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or tries == 30:
                raise
            time.sleep(1)  # the gateway restarts, or the platform is away; then we ask again


# README:end call_out


def call_and_wait(channel, request):
    # README:begin
    called = call_out(OutboundServiceStub(channel), request)
    print("called:", *called.task_data_ids, flush=True)
    # From the cursor on, nothing of these calls is missed.
    watch = WatchCallsRequest(task_data_ids=called.task_data_ids, push_cursor=called.push_cursor)
    results = {}
    while len(results) < len(called.task_data_ids):
        try:
            for response in CallServiceStub(channel).WatchCalls(watch):
                results[response.call.task_data_id] = response.call
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)  # the gateway restarts; then we ask again
    # README:end
    return results


if __name__ == "__main__":
    main()
