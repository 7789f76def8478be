"""Processes the results of calls, sharing them with every other worker on the same subscription.

    python worker.py [ADDRESS]

On SIGTERM or Ctrl-C it finishes the call at hand, acknowledges it, and ends.
"""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
from gateway import connect
from google.protobuf.duration_pb2 import Duration
from yeta.v1.call_pb2 import CallOutcome, CallState
from yeta.v1.push_kind_pb2 import PUSH_KIND_CALL
from yeta.v1.push_pb2 import (
    POSITION_EARLIEST,
    AckPushesRequest,
    NackPushesRequest,
    PushFilter,
    SubscribePushesRequest,
)
from yeta.v1.push_pb2_grpc import PushServiceStub

SUBSCRIPTION = "call-results"
RETRY = Duration(seconds=1)


def main():
    with connect() as channel:
        worker = Worker(PushServiceStub(channel))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, worker.stop)
        worker.run()
        worker.acks.close()
    print("stopped", flush=True)


def handle(call):
    """What the service is there for. A call may come again: after a crash, or with more known of
    it and a higher revision. Store it by its call_uuid, and let the highest revision win."""
    if not call.HasField("call_record"):
        raise ValueError("the call has no record")
    state = CallState.Name(call.state).removeprefix("CALL_STATE_")
    outcome = CallOutcome.Name(call.outcome).removeprefix("CALL_OUTCOME_")
    print(f"handled: {call.task_data_id} {state} {outcome}", flush=True)


class Worker:
    def __init__(self, pushes):
        self.pushes, self.acks = pushes, Acks(pushes)
        self.stream, self.is_busy, self.is_stopping = None, False, False

    # README:begin
    def run(self):
        request = SubscribePushesRequest(
            subscription=SUBSCRIPTION,  # the same in all replicas of the service: they share it
            position=POSITION_EARLIEST,  # where it begins when it is new
            filter=PushFilter(kinds=[PUSH_KIND_CALL]),  # one event for each call
            max_in_flight=64,  # what is handled well within the ack deadline, 30 s
        )
        while not self.is_stopping:
            self.stream = self.pushes.SubscribePushes(request)
            try:
                for response in self.stream:
                    if response.HasField("event"):
                        self.take(response.event)
                    if self.is_stopping:
                        break
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    time.sleep(1)  # the gateway restarts; what is not acknowledged comes again
                elif not self.is_stopping:
                    raise

    def take(self, event):
        self.is_busy = True
        try:
            handle(event.call)
            self.acks.add(event.ack_id)
        except Exception as error:  # comes again; after ten attempts it is set aside
            refused = {"subscription": SUBSCRIPTION, "ack_ids": [event.ack_id]}
            self.pushes.NackPushes(NackPushesRequest(**refused, delay=RETRY, reason=str(error)))
        finally:
            self.is_busy = False

    # README:end

    def stop(self, *_):
        """Called in the thread of `run`, between two steps of it."""
        self.is_stopping = True
        if self.stream and not self.is_busy:
            self.stream.cancel()


class Acks:
    """Acknowledges in batches: in one request whatever was handled during the one before."""

    def __init__(self, pushes):
        self._pushes, self._ids = pushes, SimpleQueue()
        self._sender = ThreadPoolExecutor(1)

    def add(self, ack_id):
        self._ids.put(ack_id)
        self._sender.submit(self._send)

    def close(self):
        self._sender.shutdown()

    def _send(self):
        ids = [self._ids.get() for _ in range(self._ids.qsize())]
        if not ids:
            return
        try:
            self._pushes.AckPushes(AckPushesRequest(subscription=SUBSCRIPTION, ack_ids=ids))
        except grpc.RpcError as error:
            print(f"{len(ids)} calls not acknowledged, they come again: {error.details()}")


if __name__ == "__main__":
    main()
