"""The fixture that both modules here share."""

from tests.clients.places import both

__all__ = ["both"]
