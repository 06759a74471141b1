"""An application that nobody changed for the sidecar: hvac, and what the environment tells it. A script of its own.

`once`: reads its secret, says so, ends. `serve`: reads without rest, over kept and over fresh connections, and goes on
for a while when it is told to end, as an application does that has work to finish. It prints what it read, a line where
reads begin to fail and one where they succeed again, and at its end how many there were and what each failure was.
`look`: prints what it finds of other containers.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hvac
import requests

LAST_READS = 20
PAUSE_SECONDS = 0.01
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
    found = [str(Path(folder) / name) for folder, _, names in os.walk(TOKENS, followlinks=True) for name in names]
    print(json.dumps({"processes": len(processes), "files": found, "variables": sorted(os.environ)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.exit(serve())
    elif sys.argv[1] == "look":
        look()
    else:
        print(read_kept(hvac.Client()), flush=True)
