"""What a caller is told when something does not work."""

import grpc
import pytest
from conftest import CALL_OUT, COLUMNS, ROWS
from errors import error_info, retry_info, violations


def refusal(call, **request):
    with pytest.raises(grpc.RpcError) as refused:
        call(**request)
    return refused.value


def test_everything_wrong_with_a_request_is_told_at_once_and_nothing_is_sent(sandbox, client):
    error = refusal(
        client.outbound.CallOut,
        robot_id="719",
        call_column=COLUMNS,
        call_list=[*ROWS, {"values": ["13000000003"]}, {"values": ["", "李女士"]}],
        robot_speed=501,
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == {
        "line_num": "is required",
        "robot_speed": "is 501, not within -500 to 500",
        "call_list[2].values": "has 1 values, call_column 2",
        "call_list[3].values[0]": "is required",
    }
    assert sandbox.requests("callout") == 0


def test_more_rows_than_the_platform_takes_are_refused_before_it_is_asked(sandbox, client):
    error = refusal(client.outbound.CallOut, **{**CALL_OUT, "call_list": ROWS * 26})
    assert violations(error) == {"call_list": "has 52 rows, more than 50"}
    assert sandbox.requests("callout") == 0


def test_a_code_of_the_platform_is_passed_on_as_it_sent_it(sandbox, client):
    sandbox.fault("callout", "code", code=200209, message="余额不足")
    error = refusal(client.outbound.CallOut, **CALL_OUT)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = error_info(error)
    assert (info.domain, info.reason) == ("xfyeta.com", "INSUFFICIENT_BALANCE")
    assert dict(info.metadata) == {"code": "200209", "message": "余额不足"}
    assert retry_info(error) is None


def test_a_code_that_nobody_knows_is_passed_on_too(sandbox, client):
    sandbox.fault("callout", "code", code=299999, message="新错误")
    error = refusal(client.outbound.CallOut, **CALL_OUT)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error_info(error).reason == "PLATFORM_ERROR"
    assert error_info(error).metadata["code"] == "299999"


def test_a_busy_platform_says_when_to_try_again(sandbox, client):
    sandbox.fault("callout", "busy")
    error = refusal(client.outbound.CallOut, **CALL_OUT)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(error).reason == "PLATFORM_BUSY"
    assert retry_info(error).retry_delay.ToMilliseconds() > 0


def test_a_refused_token_is_renewed_without_the_caller_noticing(sandbox, client):
    client.config.QueryConfig()
    sandbox.post("/sandbox/tokens/expire")
    assert client.outbound.CallOut(**CALL_OUT).total == 2
    assert sandbox.requests("token") == 2


def test_a_lost_answer_is_said_to_be_unknown_and_nobody_is_called_twice(sandbox, client):
    sandbox.fault("callout", "cut_after_reading")
    error = refusal(client.outbound.CallOut, **CALL_OUT)
    assert error.code() is grpc.StatusCode.UNKNOWN
    info = error_info(error)
    assert (info.domain, info.reason) == ("yeta-gateway", "OUTCOME_UNKNOWN")
    assert sandbox.requests("callout") == 1


def test_a_deadline_that_passes_over_a_submission_leaves_its_outcome_unknown(sandbox, client):
    client.config.QueryConfig()  # so that the token is there
    sandbox.fault("callout", "latency", millis=60_000)
    error = refusal(client.outbound.CallOut, **CALL_OUT, timeout=2)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(error).reason == "OUTCOME_UNKNOWN"


def test_a_deadline_that_passes_over_a_query_is_just_that(sandbox, client):
    sandbox.fault("config", "latency", millis=60_000)
    error = refusal(client.config.QueryConfig, timeout=2)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(error).reason == "DEADLINE"


def test_a_request_id_that_is_too_long_is_refused(client):
    error = refusal(client.outbound.CallOut, **CALL_OUT, request_id="x" * 129)
    assert list(violations(error)) == ["request_id"]


class TestPlatformAway:
    @pytest.fixture
    def settings(self):
        return {"YETA_GATEWAY__PLATFORM__BASE_URL": "http://127.0.0.1:1"}

    def test_a_platform_that_cannot_be_reached_was_sent_nothing(self, client):
        error = refusal(client.outbound.CallOut, **CALL_OUT)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(error).reason == "PLATFORM_UNREACHABLE"
        assert retry_info(error) is not None
