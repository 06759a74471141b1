"""New raw requests from the grammar of tricks: the same seed and number always give the same request."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from sidecar.surface.mounts import Mount
from tests.differential.draft import Grammar
from tests.differential.transplants import transplant
from tests.differential.tricks import FRAMING, PARTS

FURTHER: Final = (
    Mount("database", "database"),
    Mount("team/kv1", "kv1"),
    Mount("team/transit", "transit"),
    Mount("kv1", "kv1", "ns1"),
    Mount("transit", "transit", "ns1"),
    Mount("pki", "pki", "ns1"),
    Mount("kv1", "kv1", "ns1/child"),
    Mount("team/kv", "kv2", "ns2"),
    Mount('"<[^{|}]>`', "kv2"),
)
"""Mounts that the requests need beside the lab's, so that each engine is nested and in namespaces too; no database is
configured there."""
UNNAMED: Final = {"foreign": "kv"}
"""Mounts that the tenant may not use."""

_PLAIN_SHARE: Final = 0.42
_FRAMING_SHARE: Final = 0.12
_TRANSPLANT_SHARE: Final = 0.13
_SECOND_TRICK: Final = 0.3


@dataclass(frozen=True, slots=True)
class Case:
    """One connection's bytes.

    `alone` where they need a connection of their own; `half_closed` where the client closes its side after them.
    `tricks` says what was done to a valid request, in order.
    """

    number: int
    raw: bytes
    tricks: tuple[str, ...]
    alone: bool = False
    half_closed: bool = False


class Generator:
    """Cases by number. `token` stands in each as its credential, and decides nothing else."""

    def __init__(self, seed: int, token: str) -> None:
        self._seed = seed
        self._token = token.encode()

    def case(self, number: int) -> Case:
        """One case: nearly half are valid requests, and of the tricks some change nothing."""
        rng = Random(f"{self._seed}:{number}")
        grammar = Grammar(rng, self._token)
        draft = grammar.draft()
        kind = rng.random()
        if kind < _PLAIN_SHARE:
            return Case(number, draft.render(), ())
        if kind < _PLAIN_SHARE + _FRAMING_SHARE:
            trick = rng.choices([trick for trick, _ in FRAMING], weights=[weight for _, weight in FRAMING])[0]
            raw, half_closed = trick(rng, draft, grammar)
            return Case(number, raw, (trick.__name__,), alone=True, half_closed=half_closed)
        if kind < _PLAIN_SHARE + _FRAMING_SHARE + _TRANSPLANT_SHARE:
            return Case(number, transplant(rng, self._token), (transplant.__name__,), alone=True, half_closed=True)
        names = []
        for _ in range(2 if rng.random() < _SECOND_TRICK else 1):
            part = rng.choices([trick for trick, _ in PARTS], weights=[weight for _, weight in PARTS])[0]
            part(rng, draft)
            names.append(part.__name__)
        return Case(number, draft.render(), tuple(names))
