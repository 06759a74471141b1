"""Runs a command that cannot outlive the process that started it, whatever ended that one: `leash.py PARENT COMMAND…`.

Started as a file of its own (`python -I -S leash.py`) in place of a `preexec_fn`, which Python does not call safe
beside threads. The kernel keeps the promise over `exec` (prctl(2), PR_SET_PDEATHSIG), so nothing stays in between.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks the kernel for SIGKILL at the parent's death, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the parent ended before its child began")  # the signal would never come
    os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
