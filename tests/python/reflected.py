"""A client without generated code: what it has to know it asks the server, by reflection.

    gateway = Client("127.0.0.1:50051")
    reply = gateway.outbound.CallOut(robot_id="719", …)
    reply.task_data_ids
"""

import contextlib

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from processes import PATIENCE

# What the platform pushed, without the calls that the gateway puts together of it.
PUSHED = {
    "kinds": [
        "PUSH_KIND_CALL_RECORD",
        "PUSH_KIND_VOICE",
        "PUSH_KIND_DIALOG",
        "PUSH_KIND_UNRECOGNIZED",
    ]
}


class Client:
    """A connection to a gateway."""

    def __init__(self, address, compression=None):
        self.channel = grpc.insecure_channel(address, compression=compression)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.descriptors = DescriptorPool(self.reflection)
        self.config = Service(self, "yeta.v1.ConfigService")
        self.outbound = Service(self, "yeta.v1.OutboundService")
        self.pushes = Service(self, "yeta.v1.PushService")
        self.subscriptions = Service(self, "yeta.v1.SubscriptionService")
        self.calls = Service(self, "yeta.v1.CallService")
        self.voices = Service(self, "yeta.v1.VoiceService")
        self.health = Service(self, "grpc.health.v1.Health")

    def enum(self, name):
        """The names of an enum's values, by their numbers."""
        values = self.descriptors.FindEnumTypeByName(f"yeta.v1.{name}").values
        return {value.number: value.name for value in values}

    @contextlib.contextmanager
    def subscribe(self, **request):
        """Opens a stream of pushes, and ends it with the block."""
        stream = self.pushes.SubscribePushes(**request)
        try:
            yield Subscription(stream)
        finally:
            stream.cancel()

    def close(self):
        self.channel.close()


class Service:
    """A service, its methods called by their names with the request's fields."""

    def __init__(self, client, name):
        self._client, self._name = client, name

    def __getattr__(self, method):
        service = self._client.descriptors.FindServiceByName(self._name)
        described = service.methods_by_name[method]
        request_class = GetMessageClass(described.input_type)
        channel = self._client.channel
        if described.client_streaming:
            call = channel.stream_stream
        else:
            call = channel.unary_stream if described.server_streaming else channel.unary_unary
        send = call(
            f"/{self._name}/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )

        def with_fields(*, metadata=None, timeout=PATIENCE, wait_for_ready=None, **fields):
            request = request_class(**fields)
            return send(request, metadata=metadata, timeout=timeout, wait_for_ready=wait_for_ready)

        def with_messages(messages, *, metadata=None, timeout=PATIENCE):
            requests = (request_class(**fields) for fields in messages)
            return send(requests, metadata=metadata, timeout=timeout)

        return with_messages if described.client_streaming else with_fields


class Subscription:
    """A stream of pushes; knows how far it has come."""

    def __init__(self, stream):
        self._stream = stream
        self.cursor = None

    def messages(self):
        """Every message: events, and word of progress."""
        for response in self._stream:
            message = getattr(response, response.WhichOneof("message"))
            self.cursor = message.cursor
            yield response

    def events(self, count):
        """The next `count` events."""
        events = []
        while len(events) < count:
            response = next(self.messages())
            if response.HasField("event"):
                events.append(response.event)
        return events

    def events_until_caught_up(self):
        """The events up to the log's end as it is now."""
        events = []
        for response in self.messages():
            if response.HasField("event"):
                events.append(response.event)
            elif response.progress.caught_up:
                return events
        raise AssertionError("the stream has ended")
