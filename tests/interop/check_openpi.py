"""The stock openpi client against ``polysoma serve``, with the shipped weights on a task of the arm.

Run on purpose, in an environment that has openpi-client (it asks for an old NumPy, which it does not need):

    pip install --no-deps openpi-client dm-tree
    python tests/interop/check_openpi.py
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request

from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

import polysoma


def main() -> None:
    command = [sys.executable, "-m", "polysoma", "serve", "generalist", "--embodiments", "metaworld", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with server, contextlib.ExitStack() as leaving:
        leaving.callback(server.terminate)
        assert server.stdout is not None
        host, port = server.stdout.readline().split()[-1].removeprefix("ws://").split(":")
        assert urllib.request.urlopen(f"http://{host}:{port}/healthz").read() == b"OK\n"
        policy = WebsocketClientPolicy(host, int(port))
        print("metadata:", list(policy.get_server_metadata()))
        environment = polysoma.make("metaworld/drawer-open-v3")
        successes = 0
        for seed in range(510000, 510005):
            broker = ActionChunkBroker(policy, action_horizon=4)
            observation, over, info = environment.reset(seed=seed)[0], False, {"success": False}
            while not over:
                asked = {"observation/state": observation["state"], "prompt": observation["instruction"]}
                action = broker.infer(asked)["actions"]
                observation, _, terminated, truncated, info = environment.step(action)
                over = terminated or truncated
            successes += info["success"]
        print(f"successes: {successes} of 5")


if __name__ == "__main__":
    main()
