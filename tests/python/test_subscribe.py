"""Reading what was pushed: as a stream, from any place in the log, and page by page."""

import json
from itertools import chain

import grpc
import pytest
from errors import error_info


def record(number, **fields):
    return json.dumps({"call_uuid": f"call-{number}", "direction": 2, **fields}).encode()


def voice(number):
    return json.dumps({"call_uuid": f"call-{number}", "url": f"{number}.wav"}).encode()


def push(sandbox, *numbers):
    for number in numbers:
        sandbox.push("receiveCallRecord", record(number))


def numbers(events):
    return [int(event.call_record.call_uuid.removeprefix("call-")) for event in events]


def test_a_new_stream_brings_what_is_pushed_from_now_on(sandbox, client):
    push(sandbox, 1)
    with client.subscribe() as pushes:
        assert pushes.events_until_caught_up() == []
        push(sandbox, 2)
        assert numbers(pushes.events(1)) == [2]


def test_a_stream_from_the_earliest_brings_history_and_goes_on_live(sandbox, client):
    push(sandbox, 1, 2)
    with client.subscribe(position="POSITION_EARLIEST") as pushes:
        assert numbers(pushes.events_until_caught_up()) == [1, 2]
        push(sandbox, 3)
        assert numbers(pushes.events(1)) == [3]


def test_a_stream_resumed_from_any_cursor_misses_nothing_and_repeats_nothing(sandbox, client):
    push(sandbox, *range(5))
    cursors = []
    with client.subscribe(position="POSITION_EARLIEST") as pushes:
        for _ in range(5):
            pushes.events(1)
            cursors.append(pushes.cursor)
    push(sandbox, *range(5, 8))
    for read, cursor in enumerate(cursors, 1):
        with client.subscribe(cursor=cursor) as pushes:
            assert numbers(pushes.events_until_caught_up()) == list(range(read, 8))


def test_many_short_streams_add_up_to_the_whole_log(sandbox, client):
    start = {"position": "POSITION_EARLIEST"}
    read = []
    for number in range(20):
        push(sandbox, 2 * number, 2 * number + 1)
        with client.subscribe(**start) as pushes:
            # One is left for the next stream.
            read += numbers(pushes.events(1))
            start = {"cursor": pushes.cursor}
    with client.subscribe(**start) as pushes:
        read += numbers(pushes.events_until_caught_up())
    assert read == list(range(40))


def test_the_cursor_of_progress_is_past_what_the_filter_left_out(sandbox, client):
    push(sandbox, *range(3))
    with client.subscribe(
        position="POSITION_EARLIEST", filter={"kinds": ["PUSH_KIND_VOICE"]}
    ) as pushes:
        assert pushes.events_until_caught_up() == []
        cursor = pushes.cursor
    with client.subscribe(cursor=cursor) as pushes:
        assert pushes.events_until_caught_up() == []


def test_within_a_filters_list_any_value_matches_and_between_lists_all(sandbox, client):
    for number in range(4):
        sandbox.push("receiveCallRecord", record(number))
        sandbox.push("receiveVoice", voice(number))
    filter = {"kinds": ["PUSH_KIND_VOICE"], "call_uuids": ["call-1", "call-3"]}
    with client.subscribe(position="POSITION_EARLIEST", filter=filter) as pushes:
        events = pushes.events_until_caught_up()
    assert [event.voice.url for event in events] == ["1.wav", "3.wav"]


def test_a_push_that_lacks_the_field_matches_no_filter_on_it(sandbox, client):
    push(sandbox, 1)
    sandbox.push("receiveCallRecord", record(2, task_id="129"))
    with client.subscribe(position="POSITION_EARLIEST", filter={"task_ids": ["129"]}) as pushes:
        assert numbers(pushes.events_until_caught_up()) == [2]


def test_since_starts_at_the_first_push_received_then(sandbox, client):
    push(sandbox, *range(3))
    second = client.pushes.ListPushes().events[1]
    since = {"seconds": second.received_at.seconds, "nanos": second.received_at.nanos}
    with client.subscribe(since=since) as pushes:
        # Those received in the same moment come along.
        assert numbers(pushes.events_until_caught_up())[-2:] == [1, 2]


def test_a_field_that_the_protocol_does_not_know_is_delivered_beside_the_others(sandbox, client):
    sandbox.push("receiveCallRecord", record(1, new_field={"a": ["二", 3]}))
    (event,) = client.pushes.ListPushes().events
    assert event.extra_fields["new_field"]["a"][0] == "二"


def test_the_raw_bytes_come_when_they_are_asked_for(sandbox, client):
    body = b' { "call_uuid" : "1", "direction":2 } '
    sandbox.push("receiveCallRecord", body)
    (with_raw,) = client.pushes.ListPushes(include_raw=True).events
    (without,) = client.pushes.ListPushes().events
    assert (with_raw.raw_json, without.raw_json) == (body, b"")


def test_a_recordings_address_is_made_whole(sandbox, client):
    sandbox.push("receiveVoice", voice(1))
    (event,) = client.pushes.ListPushes().events
    assert event.voice.url == "1.wav"
    assert event.voice.absolute_url == f"{sandbox.url}/voice/1.wav"


def test_pages_add_up_to_the_log(sandbox, client):
    push(sandbox, *range(7))
    pages, token = [], ""
    while True:
        page = client.pushes.ListPushes(page_size=3, page_token=token)
        pages.append(numbers(page.events))
        token = page.next_page_token
        if not token:
            break
    assert list(chain(*pages)) == list(range(7))
    assert max(map(len, pages)) == 3


def test_a_page_holds_what_matches_from_a_cursor_up_to_a_time(sandbox, client):
    push(sandbox, *range(4))
    events = client.pushes.ListPushes().events
    after_the_first = client.pushes.ListPushes(
        cursor=events[0].cursor, filter={"call_uuids": ["call-0", "call-2"]}
    )
    assert numbers(after_the_first.events) == [2]
    assert not client.pushes.ListPushes(until={"seconds": 1}).events


def test_a_text_that_is_no_cursor_is_refused(client):
    for cursor in ["x", "", "A" * 27]:
        with pytest.raises(grpc.RpcError) as refused:
            next(client.pushes.SubscribePushes(cursor=cursor))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(refused.value).reason == "BAD_CURSOR"


def test_a_page_that_is_too_large_is_refused_by_its_field(client):
    with pytest.raises(grpc.RpcError) as refused:
        client.pushes.ListPushes(page_size=1001)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
