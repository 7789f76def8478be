"""What the tests start from: the program itself, run as a user runs it, and a client that knows
nothing of it but its address.

Each test has a sandbox, a gateway and a store of its own. Whatever a test does, the gateway's log
must not show a secret or a phone number; that is looked at after each of them.
"""

import pytest

from processes import APP_KEY, APP_SECRET, PUSH_SECRET, Gateway, Port, Sandbox
from reflected import Client

# The documents' own examples. In the sandbox the first is answered, the second is busy.
ANSWERED, BUSY = "13000000001", "13000000002"
ROBOT, LINE, COLUMNS = "719", "69101338", ["客户手机号码", "姓名"]
ROWS = [{"values": [ANSWERED, "张先生"]}, {"values": [BUSY, "王女士"]}]
CALL_OUT = {"robot_id": ROBOT, "line_num": LINE, "call_column": COLUMNS, "call_list": ROWS}


@pytest.fixture
def push_port():
    port = Port()
    yield port
    port.close()


@pytest.fixture
def push_to(push_port):
    """Where the sandbox pushes to."""
    return [f"http://{push_port.address}/v1/push/default/{PUSH_SECRET}"]


@pytest.fixture
def sandbox(push_to):
    sandbox = Sandbox(*push_to)
    yield sandbox
    sandbox.close()


@pytest.fixture
def settings():
    """What a test sets besides, as environment variables."""
    return {}


@pytest.fixture
def gateway(tmp_path, sandbox, push_port, settings):
    gateway = Gateway(tmp_path, sandbox.url, push_port.address, settings)
    yield gateway
    gateway.close()
    log = "\n".join(gateway.log())
    shown = [text for text in (APP_KEY, APP_SECRET, PUSH_SECRET, ANSWERED, BUSY) if text in log]
    assert not shown, f"the log shows {shown}:\n{log}"


@pytest.fixture
def client(gateway):
    client = Client(gateway.address)
    yield client
    client.close()
