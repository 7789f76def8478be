"""What the account may use on the platform: lines, robots, voices."""

from conftest import COLUMNS, LINE, ROBOT
from processes import PUSH_SECRET


def test_the_query_tells_robots_with_the_columns_that_their_rows_need(client):
    robots = {robot.robot_id: robot for robot in client.config.QueryConfig().robots}
    robot = robots[ROBOT]
    assert list(robot.call_column) == COLUMNS
    assert client.enum("RobotStatus")[robot.status] == "ROBOT_STATUS_PUBLISHED"
    assert robot.status_code == 4  # the platform's own value stays beside each enum


def test_the_query_tells_lines_and_whether_they_are_free(client):
    lines = {line.line_num: line for line in client.config.QueryConfig().lines}
    assert client.enum("LineStatus")[lines[LINE].status] == "LINE_STATUS_IDLE"
    assert list(lines[LINE].time_work) == ["07:30:00-23:30:00"]


def test_a_type_narrows_the_query(client):
    reply = client.config.QueryConfig(type="CONFIG_TYPE_VOICE")
    assert [voice.voice_code for voice in reply.voices] == ["60020", "60030", "60040"]
    assert not reply.lines and not reply.robots and not reply.urls


def test_the_push_addresses_come_without_the_push_secret(client):
    reply = client.config.QueryConfig()
    urls = {url.url_module: url.url for url in reply.urls}
    assert urls["receiveVoice"].endswith("/v1/push/default/***/receiveVoice")
    assert PUSH_SECRET.encode() not in reply.SerializeToString()
