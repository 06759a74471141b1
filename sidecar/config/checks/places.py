"""Addresses, URLs and files in the configuration: what all rules ask of them."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from sidecar.config.problems import Problem
from sidecar.config.tree import Config, Environment


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` → its parts. Raises ValueError where it is not one."""
    parts = urlsplit(f"//{address}")
    if parts.hostname is None or parts.port is None or parts.path or parts.username is not None:
        raise ValueError("not host:port")
    return parts.hostname, parts.port


def check_address(key: str, address: str) -> list[Problem]:
    """`host:port` or a Unix socket."""
    if address.startswith("unix:///"):
        return []
    try:
        split_address(address)
    except ValueError:
        return [Problem(key, f"{address!r} is not an address", "write host:port, or unix:///absolute/path")]
    return []


def check_url(key: str, url: str, config: Config) -> list[Problem]:
    """https, or http to loopback, or http outside prod."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [Problem(key, "not a URL", "write https://host[:port]")]
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return [Problem(key, "not an http(s) URL", "write https://host[:port]")]
    if parts.scheme == "http" and config.environment is Environment.PROD and not is_loopback(host):
        return [Problem(key, "plain http where environment is prod", "use https; http is taken for loopback only")]
    return []


def check_node(key: str, address: str, config: Config) -> list[Problem]:
    """One node of OpenBao's."""
    bad_url = check_url(key, address, config)
    parts = urlsplit("" if bad_url else address)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return [Problem(key, "has a path or a query", "write https://host[:port] only")]
    return bad_url


def is_topic(name: str) -> bool:
    """Whether Kafka takes this for a topic's name."""
    return name not in (".", "..") and re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) is not None


def check_files(pairs: dict[str, Path | None]) -> list[Problem]:
    """Configuration key → a file that must be readable, where it is given."""
    return [
        Problem(key, f"{path} is not a readable file", "create it, or correct the path")
        for key, path in pairs.items()
        if path is not None and not (path.is_file() and os.access(path, os.R_OK))
    ]
