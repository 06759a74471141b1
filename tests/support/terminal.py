"""A process on a terminal of its own."""

from __future__ import annotations

from typing import Final

ON_A_TERMINAL: Final = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""`python -c` this, with a command behind it: makes standard input its controlling terminal. Not by `preexec_fn`: a
test process with threads may hang in it."""
