"""The program as a process: how it starts, stops, starts again, and checks its configuration."""

import json
import signal

import grpc
import pytest
from errors import error_info
from processes import PUSH_SECRET, run
from reflected import Client


def push(sandbox, *numbers):
    for number in numbers:
        sandbox.push("receiveCallRecord", json.dumps({"call_uuid": str(number)}).encode())


def numbers(events):
    return [int(event.call_record.call_uuid) for event in events]


def test_told_to_stop_it_ends_streams_with_a_last_cursor_and_exits_with_0(
    gateway, sandbox, client
):
    push(sandbox, 1)
    with client.subscribe(position="POSITION_EARLIEST") as pushes:
        (event,) = pushes.events(1)
        exit_code = gateway.stop(signal.SIGTERM)
        last = None
        with pytest.raises(grpc.RpcError) as ended:
            for last in pushes.messages():
                pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert last.HasField("progress")
    assert last.progress.cursor == event.cursor
    assert exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_started_again_it_goes_on_where_the_reader_was(gateway, sandbox, client, number):
    push(sandbox, *range(5))
    with client.subscribe(position="POSITION_EARLIEST") as pushes:
        assert numbers(pushes.events(2)) == [0, 1]
        cursor = pushes.cursor
    gateway.stop(number)
    gateway.start()
    push(sandbox, *range(5, 8))
    push(sandbox, *range(8))  # what was there before is known again
    after = Client(gateway.address)
    with after.subscribe(cursor=cursor) as pushes:
        assert numbers(pushes.events_until_caught_up()) == list(range(2, 8))
    after.close()


def test_a_cursor_of_another_store_is_refused(gateway, sandbox, client, tmp_path):
    push(sandbox, 1)
    cursor = client.pushes.ListPushes().events[0].cursor
    gateway.stop()
    (tmp_path / "store").rename(tmp_path / "old store")
    gateway.start()
    after = Client(gateway.address)
    with pytest.raises(grpc.RpcError) as refused:
        next(after.pushes.SubscribePushes(cursor=cursor))
    after.close()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value).reason == "BAD_CURSOR"


def test_a_second_gateway_on_the_same_store_is_refused(gateway):
    away = {f"YETA_GATEWAY__{name}__LISTEN": "127.0.0.1:0" for name in ("PUSH", "GRPC", "ADMIN")}
    code, _, told = run("serve", "--config", str(gateway.config), environment=away)
    assert code == 1
    assert "store" in told[-1]


ACCOUNT = f"""
[[accounts]]
app_key = "key"
app_secret = "secret"
push_secret = "{PUSH_SECRET}"
"""


def test_a_good_configuration_passes_the_check(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text(ACCOUNT)
    code, told, faults = run("check", "--config", str(config))
    assert (code, faults) == (0, [])
    assert told == ["the configuration is good (1 accounts)"]


def test_the_check_tells_every_fault_at_once_each_with_its_key(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text(
        """
        [grpc]
        listen = "0.0.0.0:50051"
        lisen = "127.0.0.1:50051"
        [platform]
        request_timeout = 10
        [[accounts]]
        app_key = "key"
        app_secret_file = "/not/there"
        push_secret = "a b"
        [store]
        engine = "files"
        retention = "a week or so"
        """
    )
    code, told, faults = run("check", "--config", str(config))
    assert (code, told) == (2, [])
    assert {fault.split(": ")[0] for fault in faults[:-1]} == {
        "grpc.listen",
        "grpc.lisen",
        "platform.request_timeout",
        "accounts[0].app_secret_file",
        "accounts[0].push_secret",
        "store.engine",
        "store.retention",
    }
    assert faults[-1] == "7 faults in the configuration"
    assert "a b" not in "".join(faults)


def test_with_a_faulty_configuration_it_does_not_start(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text("[grpc]\nlisen = 1\n")
    code, _, told = run("serve", "--config", str(config))
    assert code == 1
    assert told[0].startswith("grpc.lisen: ")


def test_the_environment_alone_can_configure_it():
    account = {"APP_KEY": "key", "APP_SECRET": "secret", "PUSH_SECRET": PUSH_SECRET}
    environment = {f"YETA_GATEWAY__ACCOUNTS__0__{key}": text for key, text in account.items()}
    assert run("check", environment=environment)[0] == 0
    assert run("check", environment={"YETA_GATEWAY__GRPC__LISEN": "x"})[0] == 2


def test_the_default_configuration_it_prints_is_a_good_one(tmp_path):
    config = tmp_path / "gateway.toml"
    code, printed, _ = run("serve", "--print-default-config")
    assert code == 0
    config.write_text("\n".join(printed) + ACCOUNT)
    assert run("check", "--config", str(config))[0] == 0
