"""Calls put together of their pushes: one answer for each call, whatever came when."""

import json
import time
from itertools import permutations

import grpc
import pytest
from conftest import ANSWERED, CALL_OUT, COLUMNS, LINE, ROBOT, ROWS
from errors import error_info
from processes import until

CALLS = {"kinds": ["PUSH_KIND_CALL"]}
DIALLED = 1533289491000


def pushes_of(call, row="1", task="7", answered=True, **fields):
    """What the platform pushes of an outbound call: records, and if it was answered the rest."""
    ids = {"robot_id": ROBOT, "call_uuid": call, "task_data_id": row}
    result = ("15", "客户接听后并主动挂机") if answered else ("20", "用户未接")
    basic = {
        **ids,
        "task_id": task,
        "caller": LINE,
        "callee": ANSWERED,
        "direction": 2,
        "time_dial": DIALLED,
        "time_answer": DIALLED + 8000 if answered else 0,
        "duration_ring": 8,
        "duration_call": 33 if answered else 0,
        "task_tries": 0,
    }
    outbound = {
        **basic,
        "task_result": result[0],
        "task_result_desc": result[1],
        "task_row_index": 1,
        **fields,
    }
    records = [("receiveCallRecord", basic), ("receiveCallRecord", outbound)]
    if not answered:
        return records
    turn = {"seq": "1", "role": "customer", "text_man": "好的", "tag_name": "A"}
    dialog = {**ids, "task_id": task, "tag_max": "A", "dialog": [turn]}
    return [*records, ("receiveVoice", {**ids, "url": "1.wav"}), ("receiveDialog", dialog)]


def push(gateway, *pushes):
    for module, body in pushes:
        assert gateway.push(module, json.dumps(body).encode()) == (200, b"success")


class Calls:
    """The calls of a gateway, enums by their names."""

    def __init__(self, client):
        self._client = client
        self._states = client.enum("CallState")
        self._outcomes = client.enum("CallOutcome")
        self._kinds = client.enum("PushKind")

    def get(self, call):
        return self._client.calls.GetCall(call_uuid=call)

    def when(self, call, state, revision=None):
        """The call, once it is in this state and revision."""

        def found():
            try:
                found = self.get(call).call
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND
                return None
            is_so = self.state(found) == state and revision in (None, found.revision)
            return found if is_so else None

        until(lambda: found() is not None)
        return found() or self.get(call).call

    def state(self, call):
        return self._states[call.state].removeprefix("CALL_STATE_")

    def outcome(self, call):
        return self._outcomes[call.outcome].removeprefix("CALL_OUTCOME_")

    def missing(self, call):
        return {self._kinds[kind].removeprefix("PUSH_KIND_") for kind in call.missing}

    def list(self, **request):
        """The ids of the calls listed, page by page."""
        listed, token = [], ""
        while True:
            page = self._client.calls.ListCalls(**request, page_token=token)
            listed += [call.call_uuid for call in page.calls]
            token = page.next_page_token
            if not token:
                return listed


@pytest.fixture
def calls(client):
    return Calls(client)


def refusal(call, **fields):
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(**fields)
        # A stream is refused when it is read.
        if isinstance(answer, grpc.Call):
            list(answer)
    return raised.value.code(), error_info(raised.value).reason


def watched(client, rows, push_cursor="", **fields):
    """The calls that a watch brings, to its end."""
    stream = client.calls.WatchCalls(task_data_ids=rows, push_cursor=push_cursor, **fields)
    return [message.call for message in stream]


def test_every_order_and_duplication_of_its_pushes_makes_the_same_call_once(
    gateway, client, calls
):
    made = []
    for number, order in enumerate(permutations(range(4))):
        name = f"call-{number:02}"
        pushes = pushes_of(name)
        push(gateway, *(pushes[at] for at in order for _ in range(2)), *pushes)
        call = calls.when(name, "COMPLETE", 1)
        # The names differ, and so do the times at which the pushes came.
        del call.pushes[:]
        call.call_uuid = ""
        for part in (call.call_record, call.voice, call.dialog):
            part.call_uuid = ""
        made.append(call)
    first = made[0]
    assert all(call == first for call in made)
    assert first.answered and calls.outcome(first) == "CUSTOMER_HUNG_UP"
    assert first.call_record.task_row_index == 1 and first.voice.url == "1.wav"
    assert list(first.tags) == ["A"] and first.duration_call == 33 and not first.missing
    with client.subscribe(position="POSITION_EARLIEST", filter=CALLS) as pushes:
        events = pushes.events_until_caught_up()
    assert sorted(event.call.call_uuid for event in events) == [f"call-{n:02}" for n in range(24)]


def test_a_call_says_what_is_missing_and_what_comes_late_makes_a_higher_revision(
    gateway, client, calls
):
    basic, outbound, voice, dialog = pushes_of("a")
    push(gateway, outbound, voice)
    call = calls.when("a", "PARTIAL")
    until(lambda: calls.missing(calls.get("a").call) == {"DIALOG"})
    assert call.answered and call.revision == 0
    push(gateway, dialog)
    assert calls.when("a", "COMPLETE").revision == 1
    # A record that adds nothing changes nothing; another recording does.
    push(gateway, basic, (voice[0], {**voice[1], "url": "2.wav"}))
    assert calls.when("a", "COMPLETE", 2).voice.url == "2.wav"
    with client.subscribe(position="POSITION_EARLIEST", filter=CALLS) as pushes:
        events = pushes.events_until_caught_up()
    assert [event.call.revision for event in events] == [1, 2]


@pytest.mark.parametrize("time_answer", [0, None, "", "0"])
def test_an_unanswered_call_is_complete_with_its_record_alone(gateway, calls, time_answer):
    _, (module, record) = pushes_of("a", answered=False)
    push(gateway, (module, {**record, "time_answer": time_answer}))
    call = calls.when("a", "COMPLETE", 1)
    assert not call.answered and not call.missing
    assert calls.outcome(call) == "NOT_ANSWERED"


class TestTimedOut:
    @pytest.fixture
    def settings(self):
        return {"YETA_GATEWAY__CALLS__WAIT": "1s"}

    def test_a_wait_closes_a_call_and_what_comes_yet_completes_it(self, gateway, client, calls):
        _, outbound, voice, dialog = pushes_of("a")
        push(gateway, outbound)
        (call,) = watched(client, ["1"])
        assert calls.state(call) == "TIMED_OUT" and call.revision == 1
        assert calls.missing(call) == {"VOICE", "DIALOG"}
        push(gateway, voice, dialog)
        assert calls.when("a", "COMPLETE").revision > 1


@pytest.mark.parametrize(
    ("code", "words", "outcome"),
    [
        ("22", "来电提醒", "CALL_REMINDER"),
        ("22", "呼叫转移", "CALL_FORWARDING"),
        ("22", "", "UNSPECIFIED"),
        ("25", "呼叫转移", "CALL_FORWARDING"),
        ("8", "用户拒接", "DECLINED"),
        (6, "空号", "VACANT_NUMBER"),
        ("77", "新说法", "UNSPECIFIED"),
    ],
)
def test_the_words_of_a_result_tell_the_outcome(gateway, calls, code, words, outcome):
    result = {"task_result": code, "task_result_desc": words}
    push(gateway, *pushes_of("a", answered=False, **result))
    call = calls.when("a", "COMPLETE")
    assert calls.outcome(call) == outcome
    assert call.call_record.task_result_code == str(code)


def test_redials_are_attempts_of_the_same_row(gateway, calls):
    for tries, name in ((1, "second"), (0, "first")):
        push(gateway, *pushes_of(name, answered=False, task_tries=tries))
        calls.when(name, "COMPLETE")
    for name, attempt in (("first", 1), ("second", 2)):
        found = calls.get(name)
        assert found.call.attempt == attempt
        of_row = [(call.call_uuid, call.attempt) for call in found.row_attempts]
        assert of_row == [("first", 1), ("second", 2)]


def test_a_call_that_nobody_pushed_is_not_found(client):
    get = client.calls.GetCall
    not_found = grpc.StatusCode.NOT_FOUND, "CALL_NOT_FOUND"
    assert refusal(get, call_uuid="nowhere") == not_found
    assert refusal(get)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_calls_are_listed_by_every_field_and_page_by_page(gateway, calls):
    push(gateway, *pushes_of("a", row="1", task="7"))
    push(gateway, *pushes_of("b", row="2", task="7", answered=False))
    push(gateway, *pushes_of("c", row="3", task="8", callee="13000000009")[1:3])
    inbound = {"call_uuid": "d", "direction": 1, "call_relation_id": "mine", "time_answer": 0}
    push(gateway, ("receiveCallRecord", inbound))
    calls.when("a", "COMPLETE")
    calls.when("d", "COMPLETE")
    for wanted, expected in [
        ({}, ["d", "c", "b", "a"]),
        ({"task_ids": ["7"]}, ["b", "a"]),
        ({"task_ids": ["7"], "answered": True}, ["a"]),
        ({"task_data_ids": ["1", "3", "none"]}, ["c", "a"]),
        ({"row_keys": ["none"]}, []),
        ({"call_relation_ids": ["mine"]}, ["d"]),
        ({"callees": ["13000000009"]}, ["c"]),
        ({"outcomes": ["CALL_OUTCOME_NOT_ANSWERED"]}, ["d", "b"]),
        ({"states": ["CALL_STATE_PARTIAL"]}, ["c"]),
        ({"since": {"seconds": int(time.time()) + 600}}, []),
        ({"until": {"seconds": int(time.time()) + 600}}, ["d", "c", "b", "a"]),
    ]:
        for size in (0, 1, 3):
            assert calls.list(**wanted, page_size=size) == expected, wanted


def test_a_page_token_is_good_for_its_own_list_alone(gateway, client, calls):
    for name in ("a", "b", "c"):
        push(gateway, *pushes_of(name, answered=False))
        calls.when(name, "COMPLETE")
    wanted = {"task_ids": ["7", "8"]}
    first = client.calls.ListCalls(**wanted, page_size=1)
    turned = {"task_ids": ["8", "7"], "page_size": 2, "page_token": first.next_page_token}
    assert [call.call_uuid for call in client.calls.ListCalls(**turned).calls] == ["b", "a"]
    bad = grpc.StatusCode.INVALID_ARGUMENT, "BAD_PAGE_TOKEN"
    token = first.next_page_token
    for other in ({}, {"task_ids": ["7"]}, {**wanted, "answered": False}):
        assert refusal(client.calls.ListCalls, **other, page_token=token) == bad
    assert refusal(client.calls.ListCalls, page_token="none") == bad


def test_submit_watch_done(client, calls):
    called = client.outbound.CallOut(**CALL_OUT)
    rows = list(called.task_data_ids)
    for cursor in (called.push_cursor, ""):
        final = watched(client, rows, cursor)
        assert sorted(call.task_data_id for call in final) == sorted(rows)
        assert {calls.state(call) for call in final} == {"COMPLETE"}
    answered = {call.callee: call.answered for call in final}
    assert answered == {row["values"][0]: row["values"][0] == ANSWERED for row in ROWS}


def test_a_watch_ends_at_the_callers_deadline_and_says_how_many_rows_are_left(gateway, client):
    push(gateway, *pushes_of("a", answered=False))
    stream = client.calls.WatchCalls(task_data_ids=["1", "2"], timeout=3)
    assert next(stream).call.call_uuid == "a"
    with pytest.raises(grpc.RpcError) as ended:
        next(stream)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(ended.value).metadata["rows_left"] == "1"


def test_a_watch_that_makes_no_sense_is_refused(client):
    watch = client.calls.WatchCalls
    assert refusal(watch)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(watch, task_data_ids=["1"], push_cursor="x")[1] == "BAD_CURSOR"


def test_a_call_of_a_turbo_task_waits_for_no_recording(client, calls):
    task = client.outbound.CreateTask(
        task_name="涡轮",
        line_num=LINE,
        robot_id=ROBOT,
        trubo_mode=True,
        time_range=["00:00:00-23:59:59"],
        time_begin=int(time.time() * 1000),
    ).task_id
    inserted = client.outbound.InsertTaskData(
        task_id=task, call_column=COLUMNS, call_list=ROWS[:1]
    )
    started = client.outbound.StartTask(task_id=task)
    (call,) = watched(client, inserted.task_data_ids, started.push_cursor)
    assert calls.state(call) == "COMPLETE" and call.answered
    assert call.HasField("dialog") and not call.HasField("voice")


def test_an_assembler_that_is_rewound_makes_the_same_calls_and_tells_none_again(
    gateway, client, calls
):
    push(gateway, *pushes_of("a"))
    before = calls.when("a", "COMPLETE")
    own = "yeta-gateway.calls"
    client.subscriptions.SeekSubscription(name=own, position="POSITION_EARLIEST")

    def is_idle():
        stats = client.subscriptions.GetSubscription(name=own).stats
        return stats.lag_events == 0 and stats.unacked == 0

    until(is_idle)
    push(gateway, *pushes_of("b", row="2"))
    calls.when("b", "COMPLETE")
    assert calls.get("a").call == before
    with client.subscribe(position="POSITION_EARLIEST", filter=CALLS) as pushes:
        events = pushes.events_until_caught_up()
    assert [event.call.call_uuid for event in events] == ["a", "b"]
