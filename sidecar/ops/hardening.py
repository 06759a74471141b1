"""What a process that holds secrets leaves nowhere: no image of its memory, no keys of its connections."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>
_KEY_LOG: Final = "SSLKEYLOGFILE"


def keep_session_keys() -> None:
    """No file of TLS session keys, which would open recordings of all traffic: `ssl.create_default_context` and urllib3
    write one where the environment names it. Called before anything of theirs is imported: aiohttp makes a context
    then."""
    os.environ.pop(_KEY_LOG, None)


def keep_memory() -> None:
    """No core files: a crash dump would hold secrets. The limit alone does not keep the kernel from piping one to a
    handler (core(5)); not being dumpable does, and keeps processes of the same user from reading memory and
    environment. Raises OSError where the kernel does not let us."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the process cannot be made undumpable")
