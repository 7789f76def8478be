"""The gateway, and what to call: shared by the examples."""

import os
import sys

import grpc
from yeta.v1.config_pb2 import LINE_STATUS_IDLE, QueryConfigRequest
from yeta.v1.config_pb2_grpc import ConfigServiceStub
from yeta.v1.outbound_pb2 import CallOutRequest, Row

ROBOT = "719"
ROWS = [Row(values=["13000000001", "张先生"]), Row(values=["13000000002", "王女士"])]


# A long dialog may take more than the 4 MiB that gRPC allows by default.
OPTIONS = [("grpc.max_receive_message_length", 32 << 20)]


def connect():
    named = [*sys.argv[1:], os.environ.get("YETA_GATEWAY"), "localhost:50051"]
    return grpc.insecure_channel(next(filter(None, named)), options=OPTIONS)


def call_out_request(channel):
    """Two rows, to be called by a robot of the account on a line that is free."""
    config = ConfigServiceStub(channel).QueryConfig(QueryConfigRequest())
    robot = next(robot for robot in config.robots if robot.robot_id == ROBOT)
    line = next(line for line in config.lines if line.status == LINE_STATUS_IDLE)
    return CallOutRequest(
        robot_id=robot.robot_id,
        line_num=line.line_num,
        call_column=robot.call_column,  # such as 客户手机号码, 姓名
        call_list=ROWS,
    )
