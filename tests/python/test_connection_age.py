"""A limited age of connections, as a stock client sees it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from processes import PATIENCE

CALLERS, CONNECTIONS = 4, 4


@pytest.fixture
def settings():
    return {"YETA_GATEWAY__GRPC__MAX_CONNECTION_AGE": "1s"}


def test_callers_go_from_connection_to_connection_without_a_failed_call(gateway, client):
    made, enough = [], threading.Event()

    def seen(state):
        if state is grpc.ChannelConnectivity.READY:
            made.append(state)
            if len(made) == CONNECTIONS:
                enough.set()

    def call_until_enough():
        calls = 0
        while not enough.is_set():
            list_pushes(page_size=1)
            calls += 1
        return calls

    list_pushes = client.pushes.ListPushes
    client.channel.subscribe(seen)
    with ThreadPoolExecutor() as pool:
        callers = [pool.submit(call_until_enough) for _ in range(CALLERS)]
        waited = enough.wait(PATIENCE)
        enough.set()
    assert waited, f"{len(made)} connections"
    assert all(caller.result() > 0 for caller in callers)
