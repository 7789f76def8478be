"""Compressed requests and answers."""

import json
import socket
import threading

import grpc
import pytest
from conftest import CALL_OUT, ROWS
from reflected import Client


class Tap:
    """A relay between a client and the gateway that counts the bytes of each way."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self.sent = self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            gateway = socket.create_connection(self._to)
            for way in (client, gateway, "sent"), (gateway, client, "received"):
                threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(self, source, sink, counter):
        try:
            while data := source.recv(65536):
                setattr(self, counter, getattr(self, counter) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of the two has gone

    def close(self):
        self._listener.close()


@pytest.fixture
def tap(gateway):
    tap = Tap(gateway.address)
    yield tap
    tap.close()


@pytest.fixture
def tapped(tap):
    client = Client(tap.address, compression=grpc.Compression.Gzip)
    client.config.QueryConfig()  # reflection is done with
    yield client
    client.close()


def test_a_request_compressed_with_gzip_is_understood(tap, tapped):
    rows = [{"values": [ROWS[0]["values"][0], "张先生" * 200]}] * 50
    tapped.outbound.QueryTasks()
    before = tap.sent
    assert tapped.outbound.CallOut(**{**CALL_OUT, "call_list": rows}).total == 50
    assert tap.sent - before < 50 * 200


def test_answers_come_compressed_to_whoever_understands_it(sandbox, tap, tapped):
    turns = [{"role": "robot", "text_robot": "喂，您好！" * 100}] * 100
    sandbox.push("receiveDialog", json.dumps({"call_uuid": "1", "dialog": turns}).encode())
    tapped.pushes.ListPushes(page_size=1, until={"seconds": 1})  # described by now
    before = tap.received
    (event,) = tapped.pushes.ListPushes().events
    assert event.ByteSize() > 100_000
    assert tap.received - before < event.ByteSize() / 10
