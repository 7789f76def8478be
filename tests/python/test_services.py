"""What a gateway offers, found out by a client that knows its address alone."""

import re

import pytest

from processes import http, until

SERVICES = {
    f"yeta.v1.{name}Service"
    for name in ("Config", "Outbound", "Push", "Subscription", "Call", "Voice")
}


def test_reflection_names_every_service(client):
    standard = {"grpc.health.v1.Health"}
    assert SERVICES | standard <= set(client.reflection.get_services())


def test_reflection_describes_but_does_not_name_what_the_gateway_itself_asks(client):
    asked = "yeta.v1.DialogContextService"
    assert asked not in client.reflection.get_services()
    methods = client.descriptors.FindServiceByName(asked).methods_by_name
    assert set(methods) == {"GetDialogContext", "AnalyzeSemantics"}


def test_reflection_describes_what_a_service_takes_and_gives(client):
    call_out = client.descriptors.FindMethodByName("yeta.v1.OutboundService.CallOut")
    assert {"robot_id", "line_num", "call_list"} <= set(call_out.input_type.fields_by_name)
    assert "push_cursor" in call_out.output_type.fields_by_name


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_a_health_check_says_serving(client, service):
    assert client.health.Check(service=service).status == 1  # SERVING


def test_probes_say_that_it_lives_and_is_ready(gateway):
    for probe in "/livez", "/readyz":
        assert http("GET", f"http://{gateway.admin_address}{probe}")[0] == 200


def test_metrics_count_each_call_by_method_and_status(gateway, client):
    client.config.QueryConfig()
    counted = re.compile(r'grpc_requests_total{.*"/yeta.v1.ConfigService/QueryConfig".*"0"} 1')
    # The answer is on its way a moment before it is counted.
    until(lambda: counted.search(gateway.metrics()))
