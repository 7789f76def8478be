"""Recordings: as a client without generated code fetches them, and kept in a bucket.

The bucket is moto's, a simulator of S3 that speaks its protocol over HTTP.
"""

import json
import signal

import boto3
import grpc
import pytest
from errors import error_info
from moto.server import ThreadedMotoServer
from processes import http, until

LARGE, SMALL = 12 << 20, 50_000
KEY_ID, KEY = "key-id-of-the-tests", "key-of-the-tests-bucket"


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=KEY,
    )
    server.stop()


@pytest.fixture
def bucket(s3):
    """A name that is this test's own; the bucket itself is the test's to make."""
    number = len(s3.list_buckets()["Buckets"])
    return f"recordings-{number}"


@pytest.fixture
def settings(s3, bucket, tmp_path):
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    of_voice = {
        "ARCHIVE": f"s3://{bucket}/kept",
        "RETRY_AFTER": "100ms",
        "S3__ENDPOINT": s3.meta.endpoint_url,
        "S3__REGION": "us-east-1",
        "S3__ACCESS_KEY_ID": KEY_ID,
        "S3__SECRET_ACCESS_KEY_FILE": str(key),
    }
    return {f"YETA_GATEWAY__VOICE__{name}": value for name, value in of_voice.items()}


def announce(sandbox, call_uuid, size):
    """Serves a recording and pushes it; gives its bytes."""
    path = f"{call_uuid}.wav"
    sandbox.post("/sandbox/recordings", {"path": path, "bytes": size})
    push = {"call_uuid": call_uuid, "app_id": "app", "url": path, "size": size}
    sandbox.push("receiveVoice", json.dumps(push).encode())
    return http("GET", f"{sandbox.url}/voice/{path}")[1]


def kept(client, call_uuid):
    """Where the call says that its recording is kept, once it does."""
    until(lambda: client.calls.GetCall(call_uuid=call_uuid).call.voice.archived_url)
    return client.calls.GetCall(call_uuid=call_uuid).call.voice.archived_url


def objects(s3, bucket):
    return [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_a_recording_is_streamed_with_its_info_first(sandbox, client):
    expected = announce(sandbox, "c", SMALL)
    until(lambda: client.calls.ListCalls().calls)
    first, *rest = client.voices.DownloadVoice(call_uuid="c", offset=1000)
    assert (first.info.size, first.info.content_type) == (SMALL, "audio/x-wav")
    assert b"".join(message.chunk for message in rest) == expected[1000:]
    with pytest.raises(grpc.RpcError) as refused:
        list(client.voices.DownloadVoice(url="http://169.254.169.254/latest/meta-data"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value).reason == "VOICE_ADDRESS_REFUSED"


def test_recordings_are_kept_in_a_bucket_and_their_calls_say_where(
    sandbox, gateway, client, s3, bucket
):
    s3.create_bucket(Bucket=bucket)
    for call_uuid, size in ("large", LARGE), ("small", SMALL):
        expected = announce(sandbox, call_uuid, size)
        address = kept(client, call_uuid)
        name = address.removeprefix(f"s3://{bucket}/")
        assert name.startswith("kept/default/20") and f"/{call_uuid}-" in name
        found = s3.get_object(Bucket=bucket, Key=name)
        assert found["ContentType"] == "audio/x-wav"
        assert found["Body"].read() == expected
    assert len(objects(s3, bucket)) == 2
    gateway.stop()
    log = "\n".join(gateway.log())
    assert KEY not in log and KEY_ID not in log


def test_a_bucket_that_cannot_be_used_is_tried_again_also_after_a_kill(
    sandbox, gateway, client, s3, bucket
):
    expected = announce(sandbox, "c", LARGE)
    failed = 'yeta_gateway_voice_archive_total{outcome="failed"}'
    until(lambda: failed in gateway.metrics())
    gateway.stop(signal.SIGKILL)
    s3.create_bucket(Bucket=bucket)
    gateway.start()
    client = type(client)(gateway.address)
    name = kept(client, "c").removeprefix(f"s3://{bucket}/")
    client.close()
    assert objects(s3, bucket) == [name]
    assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == expected
