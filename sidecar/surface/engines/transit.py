"""Transit: keys that never leave OpenBao, and what is done with them. The secret is the key, whatever is done.

`encrypt` creates a key that is not there, as OpenBao has it; give the sidecar's own token `update` without `create` on
`<mount>/encrypt/*`, or set `disable_upsert`, where that is not wanted. A batch spends one use for each item.
`partial_failure_response_code` is not taken: by the status the caller would choose whether what was released counts.

"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.surface.fields import Reader, items_of, malformed, nullable, scalar, text
from sidecar.surface.operation import Purpose
from sidecar.surface.query import one_of
from sidecar.surface.table import MOUNT, PAGES, Body, CaptureReader, Reading, Row, Table, Verb

_BATCH: Final = "batch_input"
# What one item says for itself; beside a batch OpenBao would ignore it.
_ITEM_ONLY: Final = frozenset({"plaintext", "ciphertext", "input", "signature", "hmac"})


def _count(fields: Mapping[str, Any]) -> Reading:
    batch = fields.get(_BATCH)
    given = {name for name, value in fields.items() if value is not None}
    if batch is None:
        if len(given) < len(fields):
            raise malformed("a field of the body is null")
        return Reading()
    # Clients send `plaintext: null` beside a batch.
    if not _ITEM_ONLY.isdisjoint(given):
        raise malformed("the body has a batch and a single item")
    return Reading(uses=len(batch))


def _batchable(item: Mapping[str, Reader], common: Mapping[str, Reader]) -> Body:
    """A body with one item's fields, or with `batch_input`, a list of such items."""
    single = {name: nullable(reader) for name, reader in item.items()}
    return Body({**single, **common, _BATCH: items_of({**item, "reference": scalar})}, decide=_count)


def _words(*words: str) -> CaptureReader:
    return lambda segment: segment if segment in words else None


def _number(segment: str) -> str | None:
    return segment if segment.isascii() and segment.isdigit() and len(segment) < 8 else None


def _version(segment: str) -> str | None:
    return segment if segment == "latest" else _number(segment)


_CIPHER: Final = {"context": text, "nonce": text, "associated_data": text}
_ENCRYPT: Final = _batchable(
    {**_CIPHER, "plaintext": text, "key_version": scalar},
    {"type": text, "convergent_encryption": scalar},
)
_DECRYPT: Final = _batchable({**_CIPHER, "ciphertext": text}, {})
_REWRAP: Final = _batchable({"context": text, "nonce": text, "ciphertext": text, "key_version": scalar}, {})
_SIGNATURE: Final = {
    "hash_algorithm": text,
    "algorithm": text,
    "prehashed": scalar,
    "signature_algorithm": text,
    "marshaling_algorithm": text,
    "salt_length": scalar,
}
_SIGN: Final = _batchable({"input": text, "context": text}, {**_SIGNATURE, "key_version": scalar})
_VERIFY: Final = _batchable({"input": text, "context": text, "signature": text, "hmac": text}, _SIGNATURE)
_HMAC: Final = _batchable({"input": text}, {"algorithm": text, "key_version": scalar})
_DATAKEY: Final = Body({**_CIPHER, "bits": scalar, "key_version": scalar}, optional=True)
_RANDOM: Final = Body({"bytes": scalar, "format": text, "source": text}, optional=True)
_HASH: Final = Body({"input": text, "algorithm": text, "format": text})
_NEW_KEY: Final = Body(
    {
        "type": text,
        "derived": scalar,
        "convergent_encryption": scalar,
        "exportable": scalar,
        "allow_plaintext_backup": scalar,
        "context": text,
        "auto_rotate_period": scalar,
        "key_size": scalar,
    },
    optional=True,
)
_NOTHING: Final = Body({}, optional=True)


def _execute(name: str, body: Body, *shapes: str, uri: str = "{key}", **readers: CaptureReader) -> Row:
    return Row(f"transit.{name}", Purpose.EXECUTE, Verb.WRITE, shapes, uri, body=body, readers=readers)


TABLE: Final = Table(
    "transit",
    (
        _execute("encrypt", _ENCRYPT, "encrypt/{key}"),
        _execute("decrypt", _DECRYPT, "decrypt/{key}"),
        _execute("rewrap", _REWRAP, "rewrap/{key}"),
        _execute("sign", _SIGN, "sign/{key}", "sign/{key}/{algorithm}"),
        _execute("verify", _VERIFY, "verify/{key}", "verify/{key}/{algorithm}"),
        _execute("hmac", _HMAC, "hmac/{key}", "hmac/{key}/{algorithm}"),
        _execute("datakey", _DATAKEY, "datakey/{kind}/{key}", kind=_words("plaintext", "wrapped")),
        _execute(
            "random",
            _RANDOM,
            "random",
            "random/{bytes}",
            "random/{source}",
            "random/{source}/{bytes}",
            uri=MOUNT,
            bytes=_number,
            source=_words("platform", "seal", "all"),
        ),
        _execute("hash", _HASH, "hash", "hash/{algorithm}", uri=MOUNT),
        Row(
            "transit.export",
            Purpose.READ,
            Verb.READ,
            ("export/{kind}/{key}", "export/{kind}/{key}/{version}"),
            "{key}",
            query={"format": one_of("raw", "der", "pem")},
            readers={"version": _version},
        ),
        Row("transit.create_key", Purpose.WRITE, Verb.WRITE, ("keys/{key}",), "{key}", body=_NEW_KEY),
        Row("transit.rotate", Purpose.ROTATE, Verb.WRITE, ("keys/{key}/rotate",), "{key}", body=_NOTHING),
        Row("transit.read_key", Purpose.READ_METADATA, Verb.READ, ("keys/{key}",), "{key}"),
        Row("transit.list", Purpose.READ_METADATA, Verb.LIST, ("keys",), MOUNT, query=PAGES),
    ),
    refusals={
        "backup": "a key's backup is its operator's, made on OpenBao itself",
        "restore": "a key's backup is its operator's, made on OpenBao itself",
        "config": "a mount's configuration is its operator's, made on OpenBao itself",
        "cache-config": "a mount's configuration is its operator's, made on OpenBao itself",
    },
)
