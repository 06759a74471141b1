"""A policy enforcement point in front of OpenBao, one per pod."""

__version__ = "0.1.0"
