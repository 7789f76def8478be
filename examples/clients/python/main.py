"""Calls two numbers through yeta-gateway and prints what comes back of the calls.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../../proto --python_out=. --grpc_python_out=. \
        ../../../proto/yeta/v1/*.proto
    python main.py [ADDRESS]
"""

import os
import sys
import time

import grpc
from yeta.v1.call_record_pb2 import CallRecordVariant
from yeta.v1.config_pb2 import LINE_STATUS_IDLE, QueryConfigRequest
from yeta.v1.config_pb2_grpc import ConfigServiceStub
from yeta.v1.outbound_pb2 import CallOutRequest, Row
from yeta.v1.outbound_pb2_grpc import OutboundServiceStub
from yeta.v1.push_pb2 import PushFilter, SubscribePushesRequest
from yeta.v1.push_pb2_grpc import PushServiceStub

ROBOT = "719"
ROWS = [Row(values=["13000000001", "张先生"]), Row(values=["13000000002", "王女士"])]


def main(address):
    with grpc.insecure_channel(address) as channel:
        config = ConfigServiceStub(channel).QueryConfig(QueryConfigRequest())
        robot = next(robot for robot in config.robots if robot.robot_id == ROBOT)
        line = next(line for line in config.lines if line.status == LINE_STATUS_IDLE)
        call(channel, robot, line)


def call(channel, robot, line):
    # README:begin
    called = OutboundServiceStub(channel).CallOut(
        CallOutRequest(
            robot_id=robot.robot_id,
            line_num=line.line_num,
            call_column=robot.call_column,  # such as 客户手机号码, 姓名
            call_list=ROWS,
        )
    )
    pushes = PushServiceStub(channel)
    filter = PushFilter(task_data_ids=called.task_data_ids)
    cursor = called.push_cursor  # a stream from here misses nothing of these calls
    calls = Calls(called.task_data_ids)
    while not calls.complete():
        try:
            request = SubscribePushesRequest(cursor=cursor, filter=filter)
            for response in pushes.SubscribePushes(request):
                cursor = calls.take(response)  # of the event or the progress: keep it
                if calls.complete():
                    break
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)  # the gateway restarts; then we go on from the cursor
    # README:end


class Calls:
    """What is still to come of each call: two records, and if it was answered a recording and a
    dialog. They come in any order."""

    def __init__(self, task_data_ids):
        self._pushes = dict.fromkeys(task_data_ids, 0)
        self._answered = set()
        print("called:", *task_data_ids, flush=True)

    def complete(self):
        return all(
            pushes == (4 if task_data_id in self._answered else 2)
            for task_data_id, pushes in self._pushes.items()
        )

    def take(self, response):
        """Prints an event, and returns the cursor to go on from."""
        if response.HasField("progress"):
            return response.progress.cursor
        event = response.event
        kind = event.WhichOneof("payload")
        push = getattr(event, kind)
        if kind == "call_record":
            answered = push.time_answer > 0
            variant = CallRecordVariant.Name(push.variant).removeprefix("CALL_RECORD_VARIANT_")
            print(f"call record {variant} {push.task_result_desc} {push.duration_call} s")
        elif kind == "voice":
            answered = True
            print(f"recording   {push.absolute_url} {push.duration} s")
        elif kind == "dialog":
            answered = True
            for turn in push.dialog:
                print(f"dialog      {turn.role_code}: {turn.text_man or turn.text_robot}")
        self._pushes[push.task_data_id] += 1
        if answered:
            self._answered.add(push.task_data_id)
        return event.cursor


if __name__ == "__main__":
    addresses = [*sys.argv[1:], os.environ.get("YETA_GATEWAY"), "localhost:50051"]
    main(next(filter(None, addresses)))
