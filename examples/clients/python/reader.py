"""Prints every push that a gateway holds, and then what comes: a reader that keeps its own place.

    python reader.py [ADDRESS]
"""

import time

import grpc
from gateway import connect
from yeta.v1.push_pb2 import POSITION_EARLIEST, SubscribePushesRequest
from yeta.v1.push_pb2_grpc import PushServiceStub


def main():
    with connect() as channel:
        read(PushServiceStub(channel))


def read(pushes):
    # README:begin
    request = SubscribePushesRequest(position=POSITION_EARLIEST)
    while True:
        try:
            for response in pushes.SubscribePushes(request):
                if response.HasField("event"):
                    show(response.event)
                # The place to go on from, after a restart too: keep it with what was stored.
                request.cursor = response.event.cursor or response.progress.cursor
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)  # the gateway restarts; then we go on from the cursor
    # README:end


def show(event):
    kind = event.WhichOneof("payload")
    push = getattr(event, kind)
    if kind == "call_record":
        print(f"call record {push.call_uuid} {push.task_result_desc} {push.duration_call} s")
    elif kind == "voice":
        print(f"recording   {push.call_uuid} {push.absolute_url}")
    elif kind == "dialog":
        print(f"dialog      {push.call_uuid} {len(push.dialog)} turns")
    elif kind == "call":
        print(f"call        {push.call_uuid} revision {push.revision}")
    else:
        print(f"other push  {push.module}: {push.reason}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
