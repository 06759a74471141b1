"""docs/how-to/log-in-to-openbao.md: every configuration on the page is one that the sidecar takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.config import load
from sidecar.upstream.logins import Logins
from tests.upstream.certificates import Authority

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "log-in-to-openbao.md"
BLOCKS: Final = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
async def test_every_configuration_on_the_page_is_taken(block: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("client", client=True)
    (tmp_path / "line").write_text("s.aTokenThatIsLongEnough")
    files = {"ca_file": authority.file, "cert_file": pair.cert, "key_file": pair.key}
    tree: dict[str, Any] = yaml.safe_load(block)
    for section in (tree["upstream"]["auth"], tree["upstream"].get("tls", {})):
        for key in section.keys() & {"token_file", "secret_id_file", "jwt_file", *files}:
            section[key] = str(files.get(key, tmp_path / "line"))
    tree["upstream"]["address"] = "https://openbao:8200"
    tree["tenant"] = {"id": "acme", "allowed_mounts": ["secret"], "salt": "a salt of sixteen bytes"}
    tree["identity"] = {"issuers": [{"issuer": "https://idp.example", "jwks_uri": "https://idp.example/jwks"}]}
    tree["authorization"] = {"cedar": {"policies": str(tmp_path)}}
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(tree))
    config = load(tmp_path / "sidecar.yaml", {})
    assert Logins(config.upstream).requests is not None


def test_every_mode_and_method_stands_on_the_page() -> None:
    auth = [yaml.safe_load(block)["upstream"]["auth"] for block in BLOCKS]
    assert {entry.get("mode", entry.get("method")) for entry in auth} == {
        *("token_file", "approle", "kubernetes", "jwt", "cert"),
        *("exchange", "passthrough"),
    }
