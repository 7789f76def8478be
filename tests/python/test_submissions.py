"""Submitting without calling anybody twice: request ids, and uploads of many rows."""

import signal

import grpc
import pytest
from conftest import ANSWERED, BUSY, CALL_OUT, COLUMNS, LINE, ROBOT, ROWS
from errors import error_info
from processes import until
from reflected import PUSHED, Client

ONE_ROW = {**CALL_OUT, "call_list": ROWS[:1]}


def refusal(call, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments, **fields)
    return raised.value


def dialled(sandbox):
    return sandbox.get("/sandbox/requests")["rows"]["by_number"]


def upload(client, rows, **header):
    """Submits rows of a key and a number; gives what came of each, and how far it came."""
    header = {"call_column": COLUMNS, "direct": {"robot_id": ROBOT, "line_num": LINE}, **header}
    rows = [{"row_key": key, "values": [number, "某人"]} for key, number in rows]
    messages = [{"header": header}, {"rows": {"rows": rows}}]
    answers = list(client.outbound.SubmitRows(messages))
    results = {answer.row.row_key: answer.row for answer in answers if answer.HasField("row")}
    return results, answers[-1].progress


def state(client, request_id):
    submission = client.outbound.GetSubmission(request_id=request_id)
    return client.enum("SubmissionState")[submission.state]


def test_a_repeat_under_the_same_id_gets_the_first_outcome_and_dials_nobody(sandbox, client):
    first = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    again = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    assert again == first
    assert dialled(sandbox) == {ANSWERED: 1}
    assert state(client, "order-17") == "SUBMISSION_STATE_ACCEPTED"


def test_the_same_id_with_other_content_is_refused(sandbox, client):
    client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    error = refusal(client.outbound.CallOut, **CALL_OUT, request_id="order-17")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "REQUEST_ID_REUSED"
    assert dialled(sandbox) == {ANSWERED: 1}


def test_a_repeat_after_a_kill_gets_the_first_outcome(gateway, sandbox, client):
    first = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    gateway.stop(signal.SIGKILL)
    gateway.start()
    client = Client(gateway.address)
    again = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    assert str(again) == str(first)
    assert dialled(sandbox) == {ANSWERED: 1}


def test_an_unknown_outcome_stays_so_until_a_push_tells(sandbox, client):
    sandbox.fault("callout", "cut_after_reading")
    error = refusal(client.outbound.CallOut, **ONE_ROW, request_id="order-17")
    assert error.code() is grpc.StatusCode.UNKNOWN
    info = error_info(error)
    assert info.reason == "OUTCOME_UNKNOWN"
    assert info.metadata["rows"] == "1"
    until(lambda: state(client, "order-17") == "SUBMISSION_STATE_ACCEPTED")
    submission = client.outbound.GetSubmission(request_id="order-17")
    assert submission.evidence[0].task_data_id
    again = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    assert list(again.task_data_ids) == [submission.evidence[0].task_data_id]
    assert dialled(sandbox) == {ANSWERED: 1}


def settle(client, **fields):
    return client.outbound.SettleSubmission(reason="asked the platform's support", **fields)


def test_evidence_says_whether_it_has_settled_the_request(sandbox, client):
    sandbox.fault("callout", "cut_after_reading")
    refusal(client.outbound.CallOut, **ONE_ROW, request_id="order-17")
    until(lambda: state(client, "order-17") == "SUBMISSION_STATE_ACCEPTED")
    submission = client.outbound.GetSubmission(request_id="order-17")
    [settled] = [found for found in submission.evidence if found.settled]
    kinds = client.enum("SubmissionEvidenceKind")
    assert kinds[settled.kind] == "SUBMISSION_EVIDENCE_KIND_CALL_RECORD"
    assert list(submission.call_out_response.task_data_ids) == [settled.task_data_id]


def test_a_request_settled_as_not_sent_goes_out_once(sandbox, client):
    sandbox.fault("callout", "cut_before_reading")
    for _ in range(2):
        error = refusal(client.outbound.CallOut, **ONE_ROW, request_id="order-17")
        assert error_info(error).reason == "OUTCOME_UNKNOWN"
    assert dialled(sandbox) == {}
    settled = settle(client, request_id="order-17", not_sent={})
    assert [settlement.accepted for settlement in settled.settlements] == [False]
    first = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    again = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    assert again == first
    assert dialled(sandbox) == {ANSWERED: 1}
    known = refusal(settle, client, request_id="order-17", not_sent={})
    assert known.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(known).reason == "SUBMISSION_NOT_UNKNOWN"


def test_a_request_settled_as_accepted_answers_the_given_ids(sandbox, client):
    sandbox.fault("callout", "cut_before_reading")
    refusal(client.outbound.CallOut, **ONE_ROW, request_id="order-17")
    wrong = refusal(settle, client, request_id="order-17", accepted={"task_data_ids": ["1", "2"]})
    assert error_info(wrong).reason == "WRONG_IDS"
    settle(client, request_id="order-17", accepted={"task_data_ids": ["4711"]})
    repeat = client.outbound.CallOut(**ONE_ROW, request_id="order-17")
    assert list(repeat.task_data_ids) == ["4711"]
    assert dialled(sandbox) == {}


def test_a_row_of_an_upload_is_settled_by_its_key(sandbox, client):
    rows = [("a", ANSWERED), ("b", BUSY)]
    sandbox.fault("callout", "cut_before_reading")
    lost, progress = upload(client, rows, upload_id="monday")
    assert {row.error.reason for row in lost.values()} == {"OUTCOME_UNKNOWN"}
    assert progress.unknown == 2
    settle(client, upload_row={"upload_id": "monday", "row_key": "a"}, not_sent={})
    again, progress = upload(client, rows, upload_id="monday")
    assert again["a"].task_data_id
    assert again["b"].error.reason == "OUTCOME_UNKNOWN"
    assert (progress.accepted, progress.unknown) == (1, 1)
    assert dialled(sandbox) == {ANSWERED: 1}


def test_a_settlement_without_a_reason_is_refused(client):
    error = refusal(client.outbound.SettleSubmission, request_id="order-17", not_sent={})
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "INVALID_REQUEST"
    missing = refusal(settle, client, request_id="order-17", not_sent={})
    assert missing.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(missing).reason == "SUBMISSION_NOT_FOUND"


def test_good_rows_of_an_upload_go_through_beside_bad_ones(sandbox, client):
    rows = [("a", ANSWERED), ("b", "13800009999"), ("c", "12345"), ("d", BUSY), ("e", ANSWERED)]
    results, progress = upload(client, rows)
    assert {key: result.error.reason for key, result in results.items()} == {
        "a": "",
        "b": "BAD_PHONE_NUMBER",
        "c": "IMPLAUSIBLE_PHONE_NUMBER",
        "d": "",
        "e": "DUPLICATE_NUMBER",
    }
    assert (progress.received, progress.accepted, progress.refused) == (5, 2, 3)
    assert dialled(sandbox) == {ANSWERED: 1, BUSY: 1}


def test_an_upload_taken_up_again_dials_nobody_twice(gateway, sandbox, client):
    first, _ = upload(client, [("a", ANSWERED), ("b", BUSY)], upload_id="monday")
    gateway.stop(signal.SIGKILL)
    gateway.start()
    client = Client(gateway.address)
    again, progress = upload(client, [("a", ANSWERED), ("b", BUSY)], upload_id="monday")
    assert {key: row.task_data_id for key, row in again.items()} == {
        key: row.task_data_id for key, row in first.items()
    }
    assert all(row.known_before for row in again.values())
    assert progress.accepted == 2
    assert dialled(sandbox) == {ANSWERED: 1, BUSY: 1}


def test_the_callers_own_id_comes_back_on_every_push_and_call_of_its_row(client):
    results, _ = upload(client, [("customer 9", ANSWERED)])
    wanted = {"task_data_ids": [results["customer 9"].task_data_id], **PUSHED}
    with client.subscribe(position="POSITION_EARLIEST", filter=wanted) as pushes:
        assert {event.row_key for event in pushes.events(4)} == {"customer 9"}
    until(lambda: client.calls.ListCalls(row_keys=["customer 9"]).calls)


def test_a_stream_that_does_not_begin_with_a_header_is_refused(client):
    error = refusal(list, client.outbound.SubmitRows([{"rows": {"rows": []}}]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "INVALID_REQUEST"
