"""Durable subscriptions as services use them: members in processes of their own, one of which is
killed."""

import json
import sys
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

from processes import PATIENCE, PUSH_SECRET, Process, until

EVENTS, ARRAY = 100_000, 200
WINDOW, BATCH = 500, 50
MEMBER = Path(__file__).with_name("durable_member.py")


def member(gateway, batch=BATCH):
    arguments = str(MEMBER), gateway.address, "billing", str(WINDOW), str(batch)
    return Process(*arguments, program=sys.executable)


def push_all(gateway):
    """Pushes every event, over one connection, many in each request."""
    connection = HTTPConnection(gateway.push_address, timeout=PATIENCE)
    for start in range(0, EVENTS, ARRAY):
        records = [{"call_uuid": str(n), "direction": 2} for n in range(start, start + ARRAY)]
        connection.request(
            "POST",
            f"/v1/push/default/{PUSH_SECRET}/receiveCallRecord",
            json.dumps(records),
            {"Content-Type": "application/json;charset=UTF-8"},
        )
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"success")
    connection.close()


def told(process):
    """What a member that has ended told: what it got with attempts, and what counted."""
    lines = [line.split() for line in process.stdout.all()]
    got = [word.rsplit("/", 1) for line in lines if line and line[0] == "got" for word in line[1:]]
    done = [word for line in lines if line and line[0] == "done" for word in line[1:]]
    return [(call, int(attempt)) for call, attempt in got], done


def test_two_members_and_one_that_is_killed_complete_every_event_once(gateway, client):
    # A deadline that does not pass: what comes again does so because its member was killed.
    subscription = {"name": "billing", "ack_deadline": {"seconds": 3600}}
    client.subscriptions.CreateSubscription(subscription=subscription, position="POSITION_EARLIEST")

    def stats():
        # Asked again and again, and not so often that it is what the gateway is busy with.
        time.sleep(0.2)
        return client.subscriptions.GetSubscription(name="billing").stats

    # The third acknowledges nothing.
    members = [member(gateway), member(gateway), member(gateway, batch=0)]
    try:
        until(lambda: stats().members == 3)
        push_all(gateway)
        until(lambda: stats().unacked >= WINDOW or stats().lag_events == 0)
        members[2].close()
        until(lambda: stats().members == 2 and stats().unacked + stats().lag_events < BATCH * 2)
        # Some are left that make no whole batch; whoever comes next gets them.
        for process in members[:2]:
            process.close()
        until(lambda: stats().members == 0)
        last = member(gateway, batch=1)
        members.append(last)
        until(lambda: stats().unacked == 0 and stats().lag_events == 0)
        redelivered = stats().redelivered
    finally:
        for process in members:
            process.close()
    logs = [told(process) for process in members]
    completed = Counter(call for _, done in logs for call in done)
    calls = {str(number) for number in range(EVENTS)}
    # An acknowledgement may have counted that its member did not live to be told of.
    untold = calls - completed.keys()
    assert len(untold) <= 2 * BATCH
    assert untold <= {call for got, _ in logs[:2] for call, _ in got}
    assert completed.keys() <= calls
    assert set(completed.values()) == {1}
    assert all(attempt == 1 for got, _ in logs for _, attempt in got)
    # Redelivered is only what the killed one held, and what was left at the end.
    assert redelivered <= WINDOW + 2 * WINDOW
