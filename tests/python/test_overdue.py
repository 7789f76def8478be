"""Rows that were accepted and of which no call record came."""

import grpc
import pytest
from conftest import ANSWERED, CALL_OUT, ROWS
from errors import error_info, violations
from processes import until


@pytest.fixture
def settings():
    return {
        "YETA_GATEWAY__RECONCILIATION__AFTER_SUBMISSION": "0s",
        "YETA_GATEWAY__RECONCILIATION__AFTER_TASK_END": "0s",
        "YETA_GATEWAY__RECONCILIATION__EVERY": "1s",
    }


def listed(client, **request):
    return client.calls.ListOverdue(**request)


def reason(client, row):
    return client.enum("OverdueReason")[row.reason]


def test_a_row_whose_record_was_lost_is_listed_until_one_comes(sandbox, client):
    sandbox.fault("receiveCallRecord", "lose", times=100)
    one = {**CALL_OUT, "call_list": ROWS[:1]}
    called = client.outbound.CallOut(**one, request_id="order-17")
    row = until(lambda: list(listed(client).rows))[0]
    assert row.task_data_id == called.task_data_ids[0]
    assert (row.account, row.request_id) == ("default", "order-17")
    assert reason(client, row) == "OVERDUE_REASON_CALL_OVER"
    assert row.HasField("submitted_at") and row.HasField("overdue_since")
    record = {"call_uuid": "late", "direction": 1, "task_data_id": row.task_data_id}
    sandbox.push("receiveCallRecord", record)
    until(lambda: not listed(client).rows)


def test_rows_of_a_deleted_task_are_told_by_that_and_by_their_own_keys(sandbox, client):
    task = client.outbound.CreateTask(
        task_name="t",
        line_num="055169101407",
        robot_id="11",
        time_range=["00:00:00-23:59:59"],
        time_begin=4_000_000_000_000,
    ).task_id
    header = {"task_id": task, "call_column": ["客户手机号码", "列2", "列3"], "upload_id": "monday"}
    rows = [{"row_key": "ours-1", "values": [ANSWERED, "a", "b"]}]
    list(client.outbound.SubmitRows([{"header": header}, {"rows": {"rows": rows}}]))
    client.outbound.DeleteTask(task_id=task)
    row = until(lambda: list(listed(client, task_ids=[task]).rows))[0]
    assert reason(client, row) == "OVERDUE_REASON_TASK_DELETED"
    assert (row.row_key, row.upload_id, row.task_id) == ("ours-1", "monday", task)
    assert not listed(client, task_ids=["another"]).rows
    assert not listed(client, reasons=["OVERDUE_REASON_CALL_OVER"]).rows


def test_rows_that_were_answered_are_not_listed_beside_one_that_was_not(sandbox, client):
    called = client.outbound.CallOut(**CALL_OUT)
    watch = {"task_data_ids": called.task_data_ids, "push_cursor": called.push_cursor}
    assert len(list(client.calls.WatchCalls(**watch))) == len(ROWS)
    sandbox.fault("receiveCallRecord", "lose", times=100)
    lost = client.outbound.CallOut(**{**CALL_OUT, "call_list": ROWS[:1]}).task_data_ids
    until(lambda: [row.task_data_id for row in listed(client).rows] == list(lost))


def test_what_asks_for_no_page_is_refused(client):
    with pytest.raises(grpc.RpcError) as raised:
        listed(client, page_size=-1)
    assert list(violations(raised.value)) == ["page_size"]
    with pytest.raises(grpc.RpcError) as raised:
        listed(client, page_token="x")
    assert error_info(raised.value).reason == "BAD_PAGE_TOKEN"
