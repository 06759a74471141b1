"""Ports are offered only where a server could listen."""

from __future__ import annotations

import socket

import pytest

from sidecar.dev.ports import LOOPBACK, NoFreePortError, free_pair, free_port, is_free


def _occupied() -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
    holder.bind((LOOPBACK, 0))
    holder.listen(1)
    return holder


def test_a_port_that_somebody_listens_on_is_passed_over_for_a_later_one() -> None:
    with _occupied() as holder:
        taken = holder.getsockname()[1]
        got = free_port(taken)
        assert taken < got <= taken + 100
        assert not is_free(taken)
        assert is_free(got)


def test_a_listener_on_all_addresses_takes_the_loopback_port_too() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen(1)
        assert not is_free(holder.getsockname()[1])


def test_the_preferred_port_is_taken_where_it_is_free() -> None:
    port = free_port()
    assert free_port(port) == port


def test_a_port_whose_last_connection_is_in_time_wait_counts_as_free() -> None:
    with _occupied() as holder:
        port = holder.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            holder.accept()[0].close()
    assert is_free(port)


def test_a_pair_leaves_room_for_openbaos_cluster_port() -> None:
    first = free_pair()
    assert is_free(first)
    assert is_free(first + 1)


def test_a_range_without_a_free_port_is_said() -> None:
    with pytest.raises(NoFreePortError):
        free_port(65_536)
