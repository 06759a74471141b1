"""What runs where: written by `sidecar dev up`, read by `sidecar dev token` and whoever wants to look."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.dev.files import FolderError, Layout, write_private

AUDIENCE: Final = "crud.secrets"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Part):
    """A child process. `origin` is `scheme://host:port`."""

    origin: str
    pid: int
    log: Path


class SidecarServer(Server):
    """A sidecar."""

    operations: str
    config: Path
    spool: Path


class WorldState(_Part):
    """The whole world. `pid` is `sidecar dev up`'s own."""

    pid: int
    audience: str
    openbao: Server
    issuer: Server
    sidecar: SidecarServer
    sidecar_mtls: SidecarServer

    def write(self, layout: Layout) -> None:
        """Puts it where `read` finds it."""
        write_private(layout.state, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, layout: Layout) -> WorldState:
        """The state of the world that runs in a folder.

        Raises:
            FolderError: none runs there.
        """
        if not layout.is_running():
            raise FolderError(
                f"no development world runs in {layout.root}; start one with `sidecar dev up` (or `make run`), "
                "or name its folder with --dir"
            )
        try:
            return cls.model_validate_json(layout.state.read_bytes())
        except FileNotFoundError:
            raise FolderError(f"the development world in {layout.root} is still starting; try again") from None
        except ValidationError:
            raise FolderError(f"{layout.state} cannot be read; restart the development world") from None
