"""Runs an example of a DialogContextService, and lets the sandbox's inbound calls ask it.

    python tests/python/provider.py COMMAND…

The command gets the address where it shall listen as its last argument.
"""

import signal
import sys
import tempfile
from pathlib import Path

from processes import PUSH_SECRET, Gateway, Port, Process, Sandbox, until

TOLD = {"姓名": "张三", "性别": "男"}
VALUES = [
    {"key": "意向", "type": "string", "value": "A"},
    {"key": "轮次", "type": "integer", "value": 2},
]


class Provider:
    def __init__(self, command, address):
        self._process = Process(*command[1:], address, program=command[0])
        self._process.stdout.first(lambda line: line if "listening on" in line else None)

    def stop(self):
        self._process.signal(signal.SIGTERM)
        assert self._process.exit_code() == 0, self._process.stderr.all()

    def close(self):
        self._process.close()


def is_answered(sandbox):
    """Somebody rings; whether both questions were answered by the provider."""
    order = {"call_relation_id": "1111", "semantics": True}
    told = sandbox.post("/sandbox/inbound", order)["context"]

    def last():
        return sandbox.get("/sandbox/inbound")["calls"][-1]

    until(lambda: "call_uuid" in last())
    return told.get("answer") == TOLD and last()["semantics"].get("answer") == VALUES


def main(command):
    port, push = Port(), Port()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(f"http://{push.address}/v1/push/default/{PUSH_SECRET}", speed=1000)
        settings = {"YETA_GATEWAY__DIALOG_CONTEXT__ENDPOINT": f"http://{port.address}"}
        gateway = Gateway(Path(folder), sandbox.url, push.address, settings)
        provider = None
        try:
            # Nobody is there yet: the platform is answered nevertheless.
            told = sandbox.post("/sandbox/inbound", {"call_relation_id": "1111"})
            assert told["context"].get("answer", {}) == {}, told
            for _ in range(2):
                provider = Provider(command, port.address)
                until(lambda: is_answered(sandbox))
                provider.stop()
        finally:
            if provider:
                provider.close()
            gateway.close()
            sandbox.close()
    print("provider: it was asked, also after its restart", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
