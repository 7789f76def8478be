"""Durable subscriptions: made and looked after, shared by members, and kept through whatever ends
the gateway."""

import json
import signal

import grpc
import pytest
from errors import error_info, violations
from processes import until
from reflected import Client

EARLIEST = "POSITION_EARLIEST"
OK, UNKNOWN, SUPERSEDED = 1, 2, 3


def push(gateway, *names):
    for name in names:
        answer = gateway.push("receiveCallRecord", json.dumps({"call_uuid": name}).encode())
        assert answer == (200, b"success")


def create(client, position=EARLIEST, **subscription):
    """Creates the subscription "billing", which takes records alone: no assembled calls."""
    subscription = {"name": "billing", **subscription}
    subscription.setdefault("filter", {"kinds": ["PUSH_KIND_CALL_RECORD"]})
    return client.subscriptions.CreateSubscription(subscription=subscription, position=position)


def join(client, **request):
    return client.subscribe(subscription="billing", **request)


def get(client):
    return client.subscriptions.GetSubscription(name="billing")


def stats(client):
    return get(client).stats


def names(events):
    return [event.call_record.call_uuid for event in events]


def attempts(events):
    return [event.delivery_attempt for event in events]


def ack(client, *ids):
    answer = client.pushes.AckPushes(subscription="billing", ack_ids=ids)
    assert [result.ack_id for result in answer.results] == list(ids)
    return [result.status for result in answer.results]


def nack(client, *events, **how):
    ids = [event.ack_id for event in events]
    answer = client.pushes.NackPushes(subscription="billing", ack_ids=ids, **how)
    return [result.status for result in answer.results]


def dead_letters(client, **page):
    return client.subscriptions.ListDeadLetters(subscription="billing", **page)


def refusal(call, **fields):
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(**fields)
        # A stream is refused when it is read.
        if isinstance(answer, grpc.Call):
            next(answer)
    return raised.value.code(), error_info(raised.value).reason


def test_a_subscription_is_made_with_defaults_read_changed_and_deleted(gateway, client):
    push(gateway, "a", "b")
    made = create(client)
    assert (made.name, made.ack_deadline.seconds, made.max_delivery_attempts) == ("billing", 30, 10)
    assert (made.stats.lag_events, made.stats.unacked, made.stats.members) == (2, 0, 0)
    assert made.stats.HasField("lag") and not made.stats.HasField("oldest_unacked")
    assert get(client).filter == made.filter

    change = {"name": "billing", "ack_deadline": {"seconds": 5}, "paused": True}
    changed = client.subscriptions.UpdateSubscription(
        subscription=change, update_mask={"paths": ["ack_deadline"]}
    )
    assert (changed.ack_deadline.seconds, changed.paused) == (5, False)
    changed = client.subscriptions.UpdateSubscription(subscription=change)
    assert changed.paused and changed.filter == made.filter

    client.subscriptions.DeleteSubscription(name="billing")
    not_found = grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND"
    assert refusal(client.subscriptions.GetSubscription, name="billing") == not_found
    assert refusal(client.subscriptions.DeleteSubscription, name="billing") == not_found
    assert refusal(client.pushes.AckPushes, subscription="billing", ack_ids=["x"]) == not_found


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "ü", "x" * 129])
def test_a_name_that_is_none_is_refused_by_its_field(client, name):
    with pytest.raises(grpc.RpcError) as refused:
        client.subscriptions.CreateSubscription(subscription={"name": name})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations(refused.value)) == {"subscription.name"}


def test_a_name_is_given_once(client):
    create(client)
    exists = grpc.StatusCode.ALREADY_EXISTS, "SUBSCRIPTION_EXISTS"
    subscription = {"name": "billing"}
    assert refusal(client.subscriptions.CreateSubscription, subscription=subscription) == exists


def test_pages_of_subscriptions_add_up_to_all_by_name(client):
    made = [f"of-{number:02}" for number in range(7)]
    for name in reversed(made):
        client.subscriptions.CreateSubscription(subscription={"name": name})
    listed, token = [], ""
    while True:
        page = client.subscriptions.ListSubscriptions(page_size=3, page_token=token)
        assert len(page.subscriptions) <= 3
        listed += [subscription.name for subscription in page.subscriptions]
        token = page.next_page_token
        if not token:
            break
    # The gateway's own come with them.
    assert [name for name in listed if not name.startswith("yeta-gateway.")] == made
    assert listed == sorted(listed)
    code, _ = refusal(client.subscriptions.ListSubscriptions, page_token="none")
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_first_subscriber_makes_it_with_its_start_and_filter(gateway, client):
    push(gateway, "a", "b")
    wanted = {"call_uuids": ["b", "c"], "kinds": ["PUSH_KIND_CALL_RECORD"]}
    with join(client, position=EARLIEST, filter=wanted) as first:
        assert names(first.events(1)) == ["b"]
        assert list(get(client).filter.call_uuids) == ["b", "c"]
        # What a later one brings is not looked at.
        with join(client, position=EARLIEST, filter={"call_uuids": ["a"]}):
            until(lambda: stats(client).members == 2)
            push(gateway, "a2", "c")
            until(lambda: stats(client).unacked == 2)


def test_members_share_events_and_hold_no_more_than_their_windows(gateway, client):
    create(client)
    with join(client, max_in_flight=3) as small, join(client, max_in_flight=5) as large:
        until(lambda: stats(client).members == 2)
        pushed = [str(number) for number in range(20)]
        push(gateway, *pushed)
        held = small.events(3), large.events(5)
        assert stats(client).unacked == 8 and stats(client).lag_events == 12
        taken = names(held[0]) + names(held[1])
        while len(taken) < 20:
            # What is acknowledged of one makes room for as much.
            assert set(ack(client, *(event.ack_id for event in held[1]))) == {OK}
            more = large.events(min(5, 20 - len(taken)))
            held = held[0], more
            taken += names(more)
        assert sorted(taken) == sorted(pushed)


def test_each_acknowledgement_is_told_what_became_of_it(gateway, client):
    create(client)
    with join(client) as member:
        push(gateway, "a", "b")
        first, second = member.events(2)
        assert ack(client, first.ack_id, "none", first.ack_id) == [OK, UNKNOWN, UNKNOWN]
        assert ack(client, first.ack_id) == [UNKNOWN]
        assert nack(client, second, delay={}) == [OK]
        (again,) = member.events(1)
        assert (names([again]), attempts([again])) == (["b"], [2])
        assert again.event_id == second.event_id and again.ack_id != second.ack_id
        assert ack(client, second.ack_id) == [SUPERSEDED]
        assert nack(client, second) == [SUPERSEDED]
        assert ack(client, again.ack_id) == [OK]
        assert stats(client).unacked == 0 and stats(client).redelivered == 1


def test_what_is_kept_too_long_comes_again_until_it_is_a_dead_letter(gateway, client):
    create(client, ack_deadline={"nanos": 200_000_000}, max_delivery_attempts=3)
    with join(client) as member:
        push(gateway, "a")
        assert attempts(member.events(3)) == [1, 2, 3]
        until(lambda: stats(client).dead_letters == 1)
    (letter,) = dead_letters(client).dead_letters
    assert (letter.attempts, letter.reason) == (3, "the ack deadline passed")
    assert letter.event.call_record.call_uuid == "a"


def test_more_time_may_be_had(gateway, client):
    create(client, ack_deadline={"seconds": 3})
    with join(client) as member:
        push(gateway, "a", "b")
        longer, _ = member.events(2)
        extended = client.pushes.ExtendAckDeadline(
            subscription="billing", ack_ids=[longer.ack_id], ack_deadline={"seconds": 600}
        )
        assert [result.status for result in extended.results] == [OK]
        again = member.events(1)
        assert (names(again), attempts(again)) == (["b"], [2])
        assert ack(client, longer.ack_id) == [OK]


def test_dead_letters_are_listed_page_by_page_and_delivered_again_some_or_all(gateway, client):
    create(client)
    with join(client) as member:
        push(gateway, "a", "b", "c")
        events = member.events(3)
        assert nack(client, *events, park=True, reason="毒丸") == [OK] * 3
        first = dead_letters(client, page_size=2)
        second = dead_letters(client, page_size=2, page_token=first.next_page_token)
        letters = [*first.dead_letters, *second.dead_letters]
        assert not second.next_page_token
        assert names(letter.event for letter in letters) == ["a", "b", "c"]
        assert {(letter.attempts, letter.reason) for letter in letters} == {(1, "毒丸")}
        assert stats(client).dead_letters == 3 and stats(client).unacked == 0

        redrive = client.subscriptions.RedriveDeadLetters
        some = redrive(subscription="billing", event_ids=[events[1].event_id, "0" * 32])
        assert some.redriven == 1
        again = member.events(1)
        assert (names(again), attempts(again)) == (["b"], [1])
        assert redrive(subscription="billing").redriven == 2
        assert sorted(names(member.events(2))) == ["a", "c"]
        assert stats(client).dead_letters == 0


def test_moved_it_has_what_lies_behind_the_place_and_old_ack_ids_count_no_more(gateway, client):
    create(client)
    seek = client.subscriptions.SeekSubscription
    with join(client) as member:
        push(gateway, "a", "b", "c")
        events = member.events(3)
        ack(client, events[0].ack_id)
        seek(name="billing", position=EARLIEST)
        again = member.events(3)
        assert (names(again), attempts(again)) == (["a", "b", "c"], [1, 1, 1])
        assert ack(client, events[1].ack_id) == [SUPERSEDED]
        seek(name="billing", cursor=events[1].cursor)
        assert names(member.events(1)) == ["c"]
        at = events[2].received_at
        seek(name="billing", since={"seconds": at.seconds, "nanos": at.nanos})
        # Those received in the same moment come along.
        while names(member.events(1)) != ["c"]:
            pass
        seek(name="billing", position="POSITION_LATEST")
        assert stats(client).unacked == 0 and stats(client).lag_events == 0
        push(gateway, "d")
        assert names(member.events(1)) == ["d"]
    assert refusal(seek, name="billing")[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(seek, name="billing", cursor="x")[1] == "BAD_CURSOR"


def test_paused_it_hands_nothing_out_and_takes_acknowledgements(gateway, client):
    create(client)
    update = client.subscriptions.UpdateSubscription
    with join(client) as member:
        push(gateway, "a")
        (event,) = member.events(1)
        assert update(subscription={"name": "billing", "paused": True}).paused
        push(gateway, "b")
        assert ack(client, event.ack_id) == [OK]
        told = stats(client)
        assert (told.lag_events, told.unacked, told.members) == (1, 0, 1)
        update(subscription={"name": "billing", "paused": False})
        assert names(member.events(1)) == ["b"]


def test_deleted_it_ends_the_streams_of_its_members(gateway, client):
    create(client)
    with join(client) as member:
        push(gateway, "a")
        member.events(1)
        client.subscriptions.DeleteSubscription(name="billing")
        with pytest.raises(grpc.RpcError) as ended:
            member.events(1)
    assert ended.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(ended.value).reason == "SUBSCRIPTION_NOT_FOUND"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_gateway_loses_nothing_and_burns_no_attempt(gateway, client, number):
    create(client)
    with join(client) as member:
        push(gateway, "settled", "held", "failed", "parked")
        events = dict(zip(("settled", "held", "failed", "parked"), member.events(4), strict=True))
        assert ack(client, events["settled"].ack_id) == [OK]
        assert nack(client, events["failed"], delay={"seconds": 1}) == [OK]
        assert nack(client, events["parked"], park=True, reason="unreadable") == [OK]
        gateway.stop(number)
        with pytest.raises(grpc.RpcError) as ended:
            member.events(5)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    gateway.start()
    after = Client(gateway.address)
    with join(after) as member:
        assert dict(zip(names(again := member.events(2)), attempts(again), strict=True)) == {
            "held": 1,
            "failed": 2,
        }
        assert ack(after, events["held"].ack_id) == [SUPERSEDED]
        assert set(ack(after, *(event.ack_id for event in again))) == {OK}
    assert [letter.reason for letter in dead_letters(after).dead_letters] == ["unreadable"]
    assert stats(after).unacked == 0 and stats(after).lag_events == 0
    after.close()


def gauge(gateway, name):
    """What a metric says of the subscription; None: it says nothing yet."""
    label = f'yeta_gateway_subscription_{name}{{subscription="billing"}} '
    lines = gateway.metrics().splitlines()
    return next((float(it.removeprefix(label)) for it in lines if it.startswith(label)), None)


def told(gateway, message):
    """The log's lines of the stopped gateway about the subscription that begin so."""
    lines = [json.loads(line) for line in gateway.log()]
    lines = [line for line in lines if line.get("message", "").startswith(message)]
    return [line for line in lines if line.get("subscription") == "billing"]


def test_the_log_says_what_was_changed_and_not_whose_calls_are_taken(gateway, client):
    create(client)
    change = {"filter": {"call_relation_ids": ["13000000001"]}, "paused": True}
    client.subscriptions.UpdateSubscription(subscription={"name": "billing", **change})
    gateway.stop()
    (changed,) = told(gateway, "a subscription has been changed")
    assert (changed["filter"], changed["paused"]) == ("another", True)
    assert "backoff" not in changed and "13000000001" not in json.dumps(changed)


class TestStuck:
    @pytest.fixture
    def settings(self):
        return {"YETA_GATEWAY__SUBSCRIPTIONS__STUCK_AFTER": "1s"}

    def test_a_subscription_that_is_stuck_is_named_in_the_log_and_its_age_measured(
        self, gateway, client
    ):
        create(client, ack_deadline={"nanos": 100_000_000}, max_delivery_attempts=0)
        with join(client) as member:
            push(gateway, "a")
            member.events(1)
            until(lambda: (gauge(gateway, "oldest_unacked_seconds") or 0) > 1)
            assert gauge(gateway, "unacked") == 1
            assert gauge(gateway, "members") == 1
        gateway.stop()
        assert told(gateway, "a subscription is stuck")
