"""Answers what the platform asks while somebody is on the line.

    python provider.py [ADDRESS]

Here the gateway calls: `dialog_context.endpoint` is where this listens, "http://localhost:50061". It
waits for 400 ms; on SIGTERM or Ctrl-C this finishes what it was asked, and ends.
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from yeta.v1.dialog_context_pb2 import (
    AnalyzeSemanticsResponse,
    GetDialogContextResponse,
    SemanticValue,
)
from yeta.v1.dialog_context_pb2_grpc import (
    DialogContextServiceServicer,
    add_DialogContextServiceServicer_to_server,
)

# What a service would look up in its own database, fast enough for somebody who is on the line.
CUSTOMERS = {"1111": {"姓名": "张三", "性别": "男"}}


# README:begin
class Provider(DialogContextServiceServicer):
    def GetDialogContext(self, request, context):
        """Somebody rings: what should the robot know? By the names that its script has for it."""
        customer = CUSTOMERS.get(request.call_relation_id, {"姓名": "客户"})
        return GetDialogContextResponse(context=customer)

    def AnalyzeSemantics(self, request, context):
        """The script asks, in the middle of a call, what to make of the reply."""
        is_willing = "好" in request.reply
        values = [
            SemanticValue(key="意向", string_value="A" if is_willing else "C"),
            SemanticValue(key="轮次", integer_value=len(request.dialog)),
        ]
        return AnalyzeSemanticsResponse(values=values)


def serve(address):
    server = grpc.server(ThreadPoolExecutor(16))
    add_DialogContextServiceServicer_to_server(Provider(), server)
    server.add_insecure_port(address)
    server.start()
    return server


# README:end


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "localhost:50061"
    server = serve(address)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(grace=1))
    print(f"provider: listening on {address}", flush=True)
    server.wait_for_termination()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
