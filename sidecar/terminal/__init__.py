"""`sidecar secret …`: the Secrets API from a terminal. Thin: each command is one request, or a page after another."""

from sidecar.terminal import commands, listings, watching
from sidecar.terminal.group import app

__all__ = ["app", "commands", "listings", "watching"]
