"""Runs the example clients of a language, and restarts the gateway meanwhile.

    python tests/python/examples.py WATCH… -- UPLOAD… -- READER… -- WORKER… -- ANOTHER WORKER…

Each is a command. The programs find the gateway's address in YETA_GATEWAY; in the command of the
upload, ADDRESS and ROWS stand for it and for the file. The two workers share one subscription.
"""

import re
import signal
import sys
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path

import grpc
from processes import PUSH_SECRET, Gateway, Port, Process, Sandbox, until
from reflected import Client

SUBSCRIPTION = "call-results"
# Of a JVM that was told to end, and did so in order.
ENDED_BY_SIGTERM = 128 + signal.SIGTERM


class World:
    """A gateway that keeps its address over restarts, and a platform slow enough for calls to be
    under way when it does."""

    def __init__(self, folder, speed):
        self.folder = Path(folder)
        self._grpc, push = Port(), Port()
        self.sandbox = Sandbox(f"http://{push.address}/v1/push/default/{PUSH_SECRET}", speed=speed)
        settings = {
            "YETA_GATEWAY__GRPC__LISTEN": self._grpc.address,
            "YETA_GATEWAY__CALLS__WAIT": "5s",
        }
        self.gateway = Gateway(self.folder, self.sandbox.url, push.address, settings)
        self.client = Client(self.address)
        self._programs = []

    @property
    def address(self):
        return self._grpc.address

    def run(self, command):
        environment = {"YETA_GATEWAY": self.address}
        program = Process(*command[1:], program=command[0], environment=environment)
        self._programs.append(program)
        return program

    def restart(self, number):
        self.gateway.stop(number)
        self.gateway.start()

    def call_out(self, first, count):
        """Calls numbers from this one on; returns their task_data_ids."""
        lines = self.client.config.QueryConfig(wait_for_ready=True).lines
        statuses = self.client.enum("LineStatus")
        called = self.client.outbound.CallOut(
            robot_id="719",
            line_num=next(
                line.line_num for line in lines if statuses[line.status] == "LINE_STATUS_IDLE"
            ),
            call_column=["客户手机号码", "姓名"],
            call_list=[
                {"values": [str(13000000000 + number), "张先生"]}
                for number in range(first, first + count)
            ],
        )
        return set(called.task_data_ids)

    def subscription(self):
        """How it is doing; nothing before there is one."""
        try:
            return self.client.subscriptions.GetSubscription(name=SUBSCRIPTION).stats
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def close(self):
        for program in self._programs:
            program.close()
        self.client.close()
        self.gateway.close()
        self.sandbox.close()


def watch(world, command):
    """It makes calls, and ends by itself when each has its result."""
    program = world.run(command)
    program.stdout.first(lambda line: line if "called: " in line else None)
    until(lambda: "yeta_gateway_readers 1\n" in world.gateway.metrics())
    world.restart(signal.SIGTERM)
    ended(program)
    done = [line for line in program.stdout.all() if "done: " in line]
    assert len(done) == 2, done


def upload(world, command):
    """It gives each row a result, and nobody is called twice: not when the gateway is restarted
    meanwhile, not when it runs again with the same file."""
    count = 1000
    file = world.folder / "customers.csv"
    numbers = [str(13000000000 + number) for number in range(count)]
    rows = [f"{key},{number},张先生" for key, number in enumerate(numbers)]
    file.write_text("\n".join(["row_key,客户手机号码,姓名", *rows, "bad,12345,李先生"]))
    words = {"ADDRESS": world.address, "ROWS": str(file)}
    command = [re.sub("|".join(words), lambda found: words[found[0]], word) for word in command]

    world.sandbox.fault("callout", "latency", millis=500, times=100)
    program = world.run(command)
    until(lambda: world.sandbox.requests("callout") > 0)
    world.restart(signal.SIGTERM)
    until(lambda: world.sandbox.requests("callout") > 8)
    world.restart(signal.SIGKILL)
    accepted, refused, unknown, _ = done(program)
    assert (accepted + unknown, refused) == (count, 1), (accepted, refused, unknown)
    # At the kill, no more than four batches were out.
    assert unknown <= 4 * 50, unknown

    calls = world.sandbox.requests("callout")
    again = world.run(command)
    accepted_again, refused, unknown, before = done(again)
    assert accepted_again >= accepted, (accepted_again, accepted)
    assert (accepted_again + unknown, refused, before) == (count, 1, count)
    assert world.sandbox.requests("callout") == calls
    dialled = world.sandbox.get("/sandbox/requests")["rows"]["by_number"]
    assert set(dialled.values()) == {1} and set(dialled) <= set(numbers), dialled
    assert accepted_again <= len(dialled), (accepted_again, len(dialled))


def done(program):
    """The counts that an upload tells at its end."""
    ended(program)
    (line,) = (line for line in program.stdout.all() if "done: " in line)
    return [int(number) for number in re.findall(r"(\d+) (?:accepted|refused|unknown|known)", line)]


def reader(world, command):
    """It prints every push, of each kind, also of calls that end after the restart."""
    program = world.run(command)
    world.call_out(first=1, count=1)
    for kind in "call record ", "recording ", "dialog ", "call  ":
        program.stdout.first(lambda line: line if kind in line else None)
    world.restart(signal.SIGKILL)
    before = len(program.stdout.so_far())
    world.call_out(first=1, count=1)
    until(lambda: any("call  " in line for line in program.stdout.so_far()[before:]))
    printed = Counter(program.stdout.so_far())
    assert max(printed.values()) == 1, printed


def worker(world, *commands):
    """Together they finish every call, whatever happens to the gateway; a call that none of them
    can deal with becomes a dead letter; told to end, they do so in order."""
    workers = [world.run(command) for command in commands]
    until(lambda: (stats := world.subscription()) and stats.members == len(workers))

    rows = world.call_out(first=1, count=20)
    for one in workers:
        one.stdout.first(row)
    world.restart(signal.SIGKILL)
    rows |= world.call_out(first=21, count=20)

    until(lambda: rows == {row(line) for one in workers for line in one.stdout.so_far()} - {None})
    until(lambda: world.subscription().members == len(workers))
    world.client.subscriptions.UpdateSubscription(
        subscription={"name": SUBSCRIPTION, "max_delivery_attempts": 3}
    )
    world.sandbox.push("receiveDialog", b'{"call_uuid": "of-no-record", "dialog": []}')
    until(lambda: world.subscription().dead_letters == 1)
    (letter,) = world.client.subscriptions.ListDeadLetters(subscription=SUBSCRIPTION).dead_letters
    assert (letter.attempts, letter.reason) == (3, "the call has no record"), letter

    for one in workers:
        one.signal(signal.SIGTERM)
    for one in workers:
        ended(one)
        assert any("stopped" in line for line in one.stdout.all()), one.stdout.all()
    until(lambda: world.subscription().members == 0)
    stats = world.subscription()
    assert (stats.unacked, stats.lag_events, stats.lost_events) == (0, 0, 0), stats


def row(line):
    """Whose call a worker has handled, if that is what it says."""
    # Maven puts an escape sequence before the first line of all.
    _, handled, rest = line.partition("handled: ")
    return rest.split()[0] if handled else None


def ended(program):
    code = program.exit_code()
    told = program.stdout.all() + program.stderr.all()
    assert code in (0, ENDED_BY_SIGTERM), "\n".join([*told, f"it exited with {code}"])


def main(arguments):
    commands = [list(words) for dashes, words in groupby(arguments, "--".__eq__) if not dashes]
    scenarios = [
        (watch, 5, commands[:1]),
        (upload, 100, commands[1:2]),
        (reader, 20, commands[2:3]),
        (worker, 10, commands[3:]),
    ]
    for scenario, speed, programs in scenarios:
        with tempfile.TemporaryDirectory() as folder:
            world = World(folder, speed)
            try:
                scenario(world, *programs)
            finally:
                world.close()
        print(f"{scenario.__name__}: nothing was lost while the gateway restarted", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
