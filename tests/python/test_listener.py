"""What the platform is answered when it pushes."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from processes import PUSH_SECRET, Sandbox
from reflected import PUSHED

VOICE = b'{"call_uuid":"809c825c-6483-11e8-b8db-2769c24918cd","url":"a.wav","size":1,"duration":2}'


def test_a_push_is_answered_with_the_word_that_the_platform_looks_for(gateway):
    assert gateway.push("receiveVoice", VOICE) == (200, b"success")


def test_the_same_content_pushed_again_is_answered_alike_and_delivered_once(gateway, client):
    again = json.dumps(json.loads(VOICE), indent=2, sort_keys=True).encode()
    assert gateway.push("receiveVoice", VOICE) == gateway.push("receiveVoice", again)
    assert len(client.pushes.ListPushes().events) == 1


@pytest.mark.parametrize(
    "address",
    [
        {"secret": "another"},
        {"secret": PUSH_SECRET + "x"},
        {"account": "another"},
    ],
    ids=["wrong-secret", "longer-secret", "unknown-account"],
)
def test_a_push_to_a_wrong_address_is_not_found_and_not_kept(gateway, client, address):
    assert gateway.push("receiveVoice", VOICE, **address) == (404, b"")
    assert not client.pushes.ListPushes().events


class TestLimits:
    @pytest.fixture
    def settings(self):
        return {"YETA_GATEWAY__PUSH__MAX_BODY_BYTES": "65536"}

    def test_a_push_that_is_too_large_is_refused_without_the_word(self, gateway, client):
        just_fits, too_large = b"x" * 65536, b"x" * 65537
        assert gateway.push("receiveVoice", just_fits) == (200, b"success")
        status, answer = gateway.push("receiveVoice", too_large)
        assert status == 413 and b"success" not in answer
        assert [event.unrecognized.size for event in client.pushes.ListPushes().events] == [65536]


class Recorder:
    """A receiver of pushes that keeps the bytes of each and answers `success`."""

    def __init__(self):
        self.received = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.received.append((self.path.lstrip("/"), body))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"success")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self._server.server_port
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class TestQuirks:
    """The sandbox pushes each oddity that was seen of the live platform or is to be feared."""

    @pytest.fixture
    def recorder(self):
        recorder = Recorder()
        yield recorder
        recorder.close()

    @pytest.fixture
    def sandbox(self, push_to, recorder):
        sandbox = Sandbox(*push_to, recorder.url)
        yield sandbox
        sandbox.close()

    def test_every_oddity_is_answered_success_and_delivered_byte_by_byte(
        self, sandbox, client, recorder
    ):
        for quirk in sandbox.post("/sandbox/quirks"):
            assert all(delivery["acknowledged"] for delivery in quirk["deliveries"]), quirk

        request = {"position": "POSITION_EARLIEST", "filter": PUSHED, "include_raw": True}
        with client.subscribe(**request) as pushes:
            events = pushes.events_until_caught_up()
        pushed = [(module, part) for module, body in recorder.received for part in parts(body)]
        once = dict.fromkeys(pushed)  # one oddity's array holds what another one is
        assert [event.raw_json for event in events] == [part for _, part in once]


def parts(body):
    """The bytes of each push in a body: of an array, which brings several, those of each element.

    What is no JSON is one push as it stands, and so is an empty array.
    """
    try:
        text = body.decode("utf-8-sig")
        if not isinstance(json.loads(text), list) or not json.loads(text):
            return [body]
    except ValueError:
        return [body]
    decoder, at, elements = json.JSONDecoder(), text.index("[") + 1, []
    while True:
        while text[at] in " \r\n\t,":
            at += 1
        if text[at] == "]":
            return elements
        end = decoder.raw_decode(text, at)[1]
        elements.append(text[at:end].encode())
        at = end
