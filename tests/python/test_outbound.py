"""Calling: at once, and through a task."""

import time

import grpc
import pytest
from conftest import ANSWERED, BUSY, CALL_OUT, COLUMNS, LINE, ROBOT, ROWS
from errors import error_info
from reflected import PUSHED

RECORD, VOICE, DIALOG = "call_record", "voice", "dialog"


def kinds(events):
    return sorted(event.WhichOneof("payload") for event in events)


def payload(event):
    return getattr(event, event.WhichOneof("payload"))


def pushes_of(client, cursor, task_data_ids, count):
    """The next `count` pushes of these rows."""
    wanted = {"task_data_ids": task_data_ids, **PUSHED}
    with client.subscribe(cursor=cursor, filter=wanted) as pushes:
        return pushes.events(count)


def test_a_callout_gives_ids_that_a_double_could_not_hold_as_exact_texts(client):
    reply = client.outbound.CallOut(**CALL_OUT)
    assert reply.total == 2
    # The platform's numbers, which JSON readers elsewhere round to 346252615123869700.
    assert list(reply.task_data_ids) == ["346252615123869699", "346252615123869700"]
    assert all(int(id) > 2**53 for id in reply.task_data_ids)


def test_an_answered_call_comes_back_as_two_records_a_recording_and_a_dialog(client):
    called = client.outbound.CallOut(**{**CALL_OUT, "call_list": ROWS[:1]})
    events = pushes_of(client, called.push_cursor, called.task_data_ids, 4)
    assert kinds(events) == [RECORD, RECORD, DIALOG, VOICE]
    assert {payload(event).task_data_id for event in events} == set(called.task_data_ids)
    assert len({payload(event).call_uuid for event in events}) == 1

    records = [event.call_record for event in events if event.HasField(RECORD)]
    variants = client.enum("CallRecordVariant")
    by_variant = {variants[record.variant]: record for record in records}
    outbound = by_variant["CALL_RECORD_VARIANT_OUTBOUND"]
    assert by_variant["CALL_RECORD_VARIANT_BASIC"].time_answer == outbound.time_answer > 0
    assert outbound.callee == ANSWERED
    assert client.enum("TaskResult")[outbound.task_result] == "TASK_RESULT_SUCCESS"
    assert (outbound.task_result_code, outbound.task_result_desc) == ("0", "成功")
    assert list(outbound.task_row_value) == ROWS[0]["values"]


def test_an_unanswered_call_comes_back_as_two_records_alone(client):
    called = client.outbound.CallOut(**{**CALL_OUT, "call_list": ROWS[1:]})
    events = pushes_of(client, called.push_cursor, called.task_data_ids, 2)
    assert kinds(events) == [RECORD, RECORD]
    assert {event.call_record.callee for event in events} == {BUSY}
    assert not any(event.call_record.time_answer for event in events)


def test_a_task_lives_from_its_making_to_its_deletion(client):
    hour = 3600
    task = client.outbound.CreateTask(
        task_name="测试外呼",
        line_num=LINE,
        robot_id=ROBOT,
        # Who doesn't answer is called again once, in an hour. Until then the task can't end.
        recall_count=1,
        time_recall_wait=hour,
        time_range=["00:00:00-23:59:59"],
        time_begin=int(time.time() * 1000),
    ).task_id
    assert state(client, task) == "TASK_STATUS_NEW"

    rows = client.outbound.InsertTaskData(task_id=task, call_column=COLUMNS, call_list=ROWS)
    assert rows.total == 2
    assert query(client, task).count_tel == 2

    started = client.outbound.StartTask(task_id=task)
    client.outbound.PauseTask(task_id=task)
    assert state(client, task) == "TASK_STATUS_PAUSED"
    client.outbound.StartTask(task_id=task)

    # Four pushes of the answered call and two of the other, whatever the pause came between.
    events = pushes_of(client, started.push_cursor, rows.task_data_ids, 6)
    assert kinds(events) == [RECORD] * 4 + [DIALOG] + [VOICE]
    assert {event.call_record.task_id for event in events if event.HasField(RECORD)} == {task}

    client.outbound.DeleteTask(task_id=task)
    with pytest.raises(grpc.RpcError) as refused:
        client.outbound.StartTask(task_id=task)
    assert error_info(refused.value).reason == "TASK_DELETED"


def test_tasks_are_found_by_name_page_by_page(client):
    tasks = [
        client.outbound.CreateTask(
            task_name=name, line_num=LINE, robot_id=ROBOT, time_begin=int(time.time() * 1000)
        ).task_id
        for name in ("春 1", "夏 2", "春 3")
    ]
    query = {"task_name": "春", "page_size": 1, "sort_name": "TASK_SORT_NAME_ID"}
    pages = [
        client.outbound.QueryTasks(**query, sort_order="SORT_ORDER_ASC", page_index=index)
        for index in (1, 2)
    ]
    assert [page.total_rows for page in pages] == [2, 2]
    assert [row.task_id for page in pages for row in page.rows] == [tasks[0], tasks[2]]


def test_the_metadata_choose_the_account(client):
    default = [("yeta-account", "default")]
    assert client.config.QueryConfig(metadata=default).robots
    with pytest.raises(grpc.RpcError) as refused:
        client.config.QueryConfig(metadata=[("yeta-account", "another")])
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(refused.value).reason == "ACCOUNT_NOT_FOUND"


def query(client, task):
    return client.outbound.QueryTasks(task_id=task).rows[0]


def state(client, task):
    return client.enum("TaskStatus")[query(client, task).status]
