"""A member of a durable subscription, as a process of its own.

    python durable_member.py ADDRESS SUBSCRIPTION WINDOW BATCH

Writes a line for each batch of events before it acknowledges it ("got", the calls), and one for
what became of it ("done", the calls whose acknowledgement counted). Ends when it is told to by a
signal; one that is killed leaves what it held to the others. With a batch of 0 it acknowledges
nothing.
"""

import sys

import grpc
from reflected import Client


def main(address, subscription, window, batch):
    client = Client(address)
    stream = client.pushes.SubscribePushes(
        timeout=None,
        subscription=subscription,
        position="POSITION_EARLIEST",
        max_in_flight=int(window),
    )
    held = []

    def settle():
        tell("got", [f"{e.call_record.call_uuid}/{e.delivery_attempt}" for e in held])
        ids = [event.ack_id for event in held]
        results = client.pushes.AckPushes(subscription=subscription, ack_ids=ids).results
        counted = zip(held, results, strict=True)
        tell("done", [e.call_record.call_uuid for e, result in counted if result.status == 1])
        held.clear()

    try:
        for response in stream:
            if response.HasField("event"):
                held.append(response.event)
            if len(held) == int(batch):
                settle()
    except grpc.RpcError as ended:
        tell("ended", [ended.code().name])


def tell(what, words):
    print(what, *words, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
