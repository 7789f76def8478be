"""Calls and subscriptions from a shell: tables for a terminal, JSON for a program."""

import json

from conftest import ANSWERED, BUSY, CALL_OUT
from processes import Process, run


def shell(gateway, *arguments, code=0):
    """Runs a command against the gateway to its end; gives what it printed."""
    at = {"YETA_GATEWAY_ADDRESS": f"http://{gateway.address}"}
    exit_code, printed, told = run(*arguments, environment=at)
    assert exit_code == code, told
    return "\n".join(printed if code == 0 else told)


def of_json(gateway, *arguments):
    return [json.loads(line) for line in shell(gateway, *arguments, "--json").splitlines()]


def test_calls_are_watched_listed_and_shown(gateway, client):
    called = client.outbound.CallOut(**CALL_OUT)
    rows = list(called.task_data_ids)
    told = shell(gateway, "call", "watch", *rows, "--cursor", called.push_cursor)
    assert all(f"row {row} call " in told for row in rows)
    watched = of_json(gateway, "call", "watch", *rows)
    assert sorted(call["taskDataId"] for call in watched) == rows
    assert {call["state"] for call in watched} == {"CALL_STATE_COMPLETE"}

    (answered,) = of_json(gateway, "call", "list", "--answered", "true")
    assert answered["callee"] == ANSWERED
    listed = shell(gateway, "call", "list", "--row", rows[0], "--state", "complete")
    assert answered["callUuid"] in listed and rows[1] not in listed
    shown = shell(gateway, "call", "get", answered["callUuid"])
    assert rows[0] in shown and "complete" in shown
    (whole,) = of_json(gateway, "call", "get", answered["callUuid"])
    assert whole["call"] == answered
    # Numbers are shown to programs in full, and to people in part.
    assert not any(number in told + listed + shown for number in (ANSWERED, BUSY))
    assert "CALL_NOT_FOUND" in shell(gateway, "call", "get", "nowhere", code=1)


def test_a_subscription_is_worked_off_and_looked_after(gateway):
    def subscription(*arguments):
        return of_json(gateway, "subscription", *arguments)

    for name in ("a", "b"):
        body = json.dumps({"call_uuid": name}).encode()
        assert gateway.push("receiveCallRecord", body) == (200, b"success")
    create = "create", "billing", "--from-start", "--kind", "call-record", "--max-attempts", "3"
    assert "billing" in shell(gateway, "subscription", *create)
    assert "billing" in shell(gateway, "subscription", "list")
    assert subscription("list")[0]["name"] == "billing"
    (got,) = subscription("get", "billing")
    assert (got["stats"]["lagEvents"], got["maxDeliveryAttempts"]) == ("2", 3)

    at = {"YETA_GATEWAY_ADDRESS": f"http://{gateway.address}"}
    tail = Process("tail", "--subscription", "billing", "--json", environment=at)
    try:
        for name in ("a", "b"):
            tail.stdout.first(lambda line, name=name: f'"callUuid":"{name}"' in line or None)
    finally:
        tail.close()
    assert subscription("seek", "billing", "--from-start")[0]["cursor"]
    assert subscription("pause", "billing")[0]["paused"]
    assert not subscription("resume", "billing")[0]["paused"]
    assert subscription("dead-letters", "billing") == []
    assert subscription("redrive", "billing", "--all") == [{}]
    assert subscription("delete", "billing") == [{}]
    assert "SUBSCRIPTION_NOT_FOUND" in shell(
        gateway, "subscription", "show", "billing", code=1
    )
