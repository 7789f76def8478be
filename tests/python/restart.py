"""Runs a program that makes calls and awaits their pushes, and restarts the gateway meanwhile.

    python tests/python/restart.py COMMAND…

The program finds the gateway's address in YETA_GATEWAY, prints "called: …" when it has submitted
its calls, and ends when all their pushes have come. It has to do so in spite of the restart.
"""

import signal
import sys
import tempfile
from pathlib import Path

from processes import PUSH_SECRET, Gateway, Port, Process, Sandbox, until


def main(command):
    grpc, push = Port(), Port()
    # Slow enough for the calls to be still under way.
    sandbox = Sandbox(f"http://{push.address}/v1/push/default/{PUSH_SECRET}", speed=5)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"YETA_GATEWAY__GRPC__LISTEN": grpc.address}
        gateway = Gateway(Path(folder), sandbox.url, push.address, settings)
        environment = {"YETA_GATEWAY": grpc.address}
        program = Process(*command[1:], program=command[0], environment=environment)
        try:
            program.stdout.first(lambda line: line if "called: " in line else None)
            until(lambda: "yeta_gateway_readers 1\n" in gateway.metrics())
            gateway.stop(signal.SIGTERM)
            gateway.start()
            code = program.exit_code()
            told = program.stdout.all() + program.stderr.all()
        finally:
            program.close()
            gateway.close()
            sandbox.close()
    if code != 0:
        return "\n".join([*told, f"{command[0]} exited with {code} after the gateway's restart"])
    print("the same with the gateway restarted in between: everything came back")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
