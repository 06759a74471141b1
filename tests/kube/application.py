"""An application that nobody changed for the sidecar: hvac, and what the environment tells it. A script of its own.

`once`: reads its secret, says so, ends. `serve`: reads without rest, over kept and over fresh connections, and goes on
for a while when it is told to end, as an application does that has work to finish. It prints what it read, a line where
reads begin to fail and one where they succeed again, and at its end how many there were and what each failure was.
`later`: the same, once a first read has succeeded. `look`: prints what it finds of other containers, and what it reads
by a Unix socket.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import hvac
import requests

LAST_READS = 10
PAUSE_SECONDS = 0.03
TOKENS = "/run/sidecar"


def read_kept(client: Any) -> str:
    """Over the client's own connection."""
    found = client.secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=True)
    return json.dumps(found["data"]["data"], sort_keys=True)


def read_fresh() -> str:
    """Over a connection made for it, as curl does."""
    url, headers = f"{os.environ['VAULT_ADDR']}/v1/secret/data/app/db", {"X-Vault-Request": "true"}
    answer = requests.get(url, headers=headers, timeout=10)
    answer.raise_for_status()
    return json.dumps(answer.json()["data"]["data"], sort_keys=True)


def read_by_socket(address: str) -> str:
    """Over a connection to a Unix socket, as the `bao` client makes it."""
    path = address.removeprefix("unix://")
    with contextlib.closing(http.client.HTTPConnection("localhost", timeout=10)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(path)
        connection.request("GET", "/v1/secret/data/app/db", headers={"X-Vault-Request": "true"})
        answer = json.loads(connection.getresponse().read())
    return json.dumps(answer["data"]["data"], sort_keys=True)


def later() -> int:
    """`serve`, from the first read on that succeeds."""
    while True:
        try:
            read_fresh()
        except requests.RequestException:
            time.sleep(PAUSE_SECONDS)
        else:
            return serve()


def serve() -> int:
    """Until SIGTERM, and a little longer."""
    ended: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    client, reads, failed, state, left = hvac.Client(), 0, [], "", LAST_READS
    while left > 0:
        left -= bool(ended)
        reads += 1
        try:
            found = read_kept(client) if reads % 2 else read_fresh()
        except Exception as error:  # whatever it was, it is told
            failed.append(f"{type(error).__name__}: {error}")
            found = "failing"
        if found != state:
            state = found
            print(state, flush=True)
        time.sleep(PAUSE_SECONDS)
    print(json.dumps({"reads": reads, "failed": failed[:5]}), flush=True)
    return 1 if failed else 0


def look() -> None:
    """Where a token might be: other processes, their variables and files; this container's own file system."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit() and path.name != str(os.getpid())]
    files = [str(Path(folder) / name) for folder, _, names in os.walk(TOKENS, followlinks=True) for name in names]
    found = {"processes": len(processes), "files": files, "variables": sorted(os.environ)}
    address = os.environ["VAULT_ADDR"]
    if address.startswith("unix://"):
        found["secret"] = read_by_socket(address)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    if sys.argv[1] in ("serve", "later"):
        sys.exit(serve() if sys.argv[1] == "serve" else later())
    elif sys.argv[1] == "look":
        look()
    else:
        print(read_kept(hvac.Client()), flush=True)
