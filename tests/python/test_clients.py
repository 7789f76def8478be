"""Services that the gateway knows by their tokens."""

import hashlib

import grpc
import pytest
from conftest import CALL_OUT
from errors import error_info

TOKEN = "token-of-the-crm"
BEARER = [("authorization", f"Bearer {TOKEN}")]


@pytest.fixture
def settings():
    client = "YETA_GATEWAY__CLIENTS__0__"
    return {
        client + "NAME": "crm",
        client + "TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        client + "ALLOW": "config,subscribe",
        client + "ACCOUNTS": "*",
    }


def test_a_client_with_its_token_may_do_what_it_is_allowed(client):
    assert client.config.QueryConfig(metadata=BEARER).robots


def test_a_client_may_not_do_what_it_is_not_allowed(sandbox, client):
    with pytest.raises(grpc.RpcError) as refused:
        client.outbound.CallOut(**CALL_OUT, metadata=BEARER)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(refused.value).reason == "RPC_FORBIDDEN"
    assert sandbox.requests("callout") == 0


@pytest.mark.parametrize("metadata", [None, [("authorization", "Bearer another")]])
def test_who_has_no_token_or_a_wrong_one_is_let_in_nowhere(client, metadata):
    with pytest.raises(grpc.RpcError) as refused:
        client.config.QueryConfig(metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as refused:
        next(client.pushes.SubscribePushes(metadata=metadata))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
