"""The bodies of the Secrets API's requests, each a closed model; `read` takes one in.

The bytes are read by `surface.json_body`, as strictly as the Vault API's: a duplicate name, a second document, a broken
character is refused. Numbers in a secret's value keep the text they were written with.
"""

from __future__ import annotations

import string
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from sidecar.errors import Code, Refused
from sidecar.surface.fields import MAX_ITEMS
from sidecar.surface.json_body import read_object, write

MAX_OPERATIONS: Final = 100
"""Operations in one bulk request."""
ALPHANUMERIC: Final = string.ascii_letters + string.digits

Uri = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=4096)]
Version = Annotated[int, Field(strict=True, ge=1, le=2**53 - 1)]
Cas = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
Versions = Annotated[list[Version], Field(min_length=1, max_length=MAX_ITEMS)]


class Body(BaseModel):
    """A request's body. Unknown members are refused; no value is ever quoted in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)


class Generate(Body):
    """How a new value is made, so that it need never pass the caller: by a password policy of OpenBao's, or at random
    from an alphabet."""

    policy: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$")] | None = None
    length: Annotated[int, Field(ge=8, le=1024)] | None = None
    alphabet: Annotated[str, StringConstraints(min_length=2, max_length=256)] = ALPHANUMERIC

    @model_validator(mode="after")
    def _one_way(self) -> Generate:
        if (self.policy is None) == (self.length is None):
            raise ValueError("give either policy or length")
        if self.policy is not None and self.alphabet != ALPHANUMERIC:
            raise ValueError("alphabet goes with length")
        if len(set(self.alphabet)) != len(self.alphabet) or not self.alphabet.isprintable():
            raise ValueError("alphabet holds a character twice, or one that cannot be printed")
        return self


class Write(Body):
    """`POST /api/secrets`: the whole map of a path, or one key's value as given."""

    uri: Uri
    value: Any
    cas: Cas | None = None


class Rotate(Body):
    """`POST /api/secrets/rotate`. A transit key and a static database role take neither value nor generate: they are
    rotated by OpenBao itself."""

    uri: Uri
    value: Any = None
    generate: Generate | None = None

    @model_validator(mode="after")
    def _not_both(self) -> Rotate:
        if "value" in self.model_fields_set and self.generate is not None:
            raise ValueError("give value or generate, not both")
        return self

    @property
    def has_value(self) -> bool:
        """Whether a value was given, be it null."""
        return "value" in self.model_fields_set


class SomeVersions(Body):
    """`POST /api/secrets/undelete` and `/destroy-versions`."""

    uri: Uri
    versions: Versions


class Owner(Body):
    """`POST /api/secrets/metadata/owner`."""

    uri: Uri
    owner: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Transfer(Body):
    """`POST /api/secrets/copy` and `/move`."""

    fromUri: Uri  # noqa: N815 - the contract's name
    toUri: Uri  # noqa: N815
    overwrite: bool = False


class BulkSet(Body):
    """As `POST /api/secrets`."""

    op: Literal["set"]
    uri: Uri
    value: Any
    cas: Cas | None = None


class BulkDelete(Body):
    """As `DELETE /api/secrets`."""

    op: Literal["delete"]
    uri: Uri


class BulkUndelete(Body):
    """As `POST /api/secrets/undelete`."""

    op: Literal["undelete"]
    uri: Uri
    versions: Versions


class BulkDestroy(Body):
    """With versions as `POST /api/secrets/destroy-versions`; without, all of them and the metadata."""

    op: Literal["destroy"]
    uri: Uri
    versions: Versions | None = None


class BulkRotate(Rotate):
    """As `POST /api/secrets/rotate`."""

    op: Literal["rotate"]


BulkOperation = Annotated[BulkSet | BulkDelete | BulkUndelete | BulkDestroy | BulkRotate, Field(discriminator="op")]


class Bulk(Body):
    """`POST /api/secrets/bulk`. Each operation is decided, carried out and answered by itself, in order; where
    `continueOnError` is false, what follows a failure is not tried."""

    operations: Annotated[list[BulkOperation], Field(min_length=1, max_length=MAX_OPERATIONS)]
    continueOnError: bool = True  # noqa: N815 - the contract's name


_TAGS: Final = frozenset({"union_tag_invalid", "union_tag_not_found"})
_UNKNOWN_OP: Final = "`op` is set, delete, undelete, destroy or rotate"

Model = TypeVar("Model", bound=Body)


def read(model: type[Model], body: bytes) -> Model:
    """The body as a model. Raises `Refused`: MALFORMED_REQUEST, naming the members that are wrong, never a value."""
    if not body:
        raise Refused(Code.MALFORMED_REQUEST, "this request needs a body, one JSON object")
    members = read_object(body)
    write(members)  # what could not be written to OpenBao is refused before anything is asked for
    try:
        return model.model_validate(members)
    except ValidationError as error:
        # An unknown member's name is the caller's text: it is said that there is one, not which.
        # Nor is what stands in place of an `op`.
        said = sorted(
            {
                f"{_where(item['loc'], item['type'])}: {_UNKNOWN_OP if item['type'] in _TAGS else item['msg']}"
                for item in error.errors()
            }
        )
        raise Refused(
            Code.MALFORMED_REQUEST, f"the body is not what this request takes: {'; '.join(said[:5])}"
        ) from None


def _where(location: tuple[int | str, ...], kind: str) -> str:
    parts = location[:-1] if kind == "extra_forbidden" else location
    return ".".join(map(str, parts)) or "body"
