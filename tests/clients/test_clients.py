"""Nothing legitimate breaks: clients nobody here wrote do the same things directly and through the sidecar.

Each runs one scenario twice, against two OpenBao servers made alike: against one itself, against the other through a
sidecar whose policy permits everything. What each step comes to is the same, less what is new in every run, and less
what docs/reference/differences.md says; each of those is looked at.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.dev.openbao import find_binary
from tests.clients import by_bao, by_hvac
from tests.clients.places import Both, Place
from tests.real.go_tools import cached_go_tool, own_program
from tests.real.node_tools import cached_node_modules, node

pytestmark = pytest.mark.real

HERE: Final = Path(__file__).parent
ODD: Final = "a b/c+d@e:f=g,h;i'j(k)!$&[l]{m}|n^o~p\\q\"r<s>t`u/ü%41%2f/日本/%2e%2e/.hidden"
"""One name with everything that clients spell each in their own way."""

Outcome = dict[str, Any]


# -- the clients ---------------------------------------------------------------------------------------------------
def _lines(command: list[str], place: Place, **variables: str) -> list[Outcome]:
    """What a program prints, which is told where and who by its environment only."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
    token = place.token()
    who = {
        f"{prefix}_{name}": value
        for prefix in ("BAO", "VAULT")
        for name, value in (("ADDR", place.url), ("TOKEN", token))
    }
    done = subprocess.run(
        command, env=environment | who | variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def hvac(place: Place, _folder: Path) -> list[Outcome]:
    """Python."""
    return by_hvac.run(place.url, place.token(), ODD)


def bao(place: Place, folder: Path) -> list[Outcome]:
    """The official CLI."""
    return by_bao.run(place.url, place.token(), ODD, folder)


def go(place: Place, _folder: Path) -> list[Outcome]:
    """OpenBao's own Go client."""
    return _lines([str(cached_go_tool(own_program(HERE / "go", cold_seconds=80))), ODD], place)


def node_vault(place: Place, _folder: Path) -> list[Outcome]:
    """JavaScript."""
    modules = str(cached_node_modules(HERE / "node"))
    return _lines([node(), str(HERE / "node" / "scenario.js"), ODD], place, NODE_PATH=modules)


CLIENTS: Final[Mapping[str, Callable[[Place, Path], list[Outcome]]]] = {
    "hvac": hvac,
    "bao": bao,
    "go": go,
    "node-vault": node_vault,
}


# -- what may differ -----------------------------------------------------------------------------------------------
def _alike(direct: Outcome, through: Outcome, *names: str) -> None:
    """Both have it, and these members of theirs are the same."""
    one, other = _inner(direct["data"]), _inner(through["data"])
    assert direct["ok"]
    assert through["ok"]
    assert [one[name] for name in names] == [other[name] for name in names]
    assert one.keys() >= other.keys()


def _inner(data: Any) -> dict[str, Any]:
    """What stands in the envelope that most clients show."""
    inner: dict[str, Any] = data["data"] if isinstance(data.get("data"), dict) else data
    return inner


def _lookup(direct: Outcome, through: Outcome) -> None:
    _alike(direct, through, "type", "num_uses")
    told = _inner(through["data"])
    assert (told["renewable"], told["display_name"]) == (False, "clients")
    assert 0 < int(told["ttl"]) <= 300


def _mount(direct: Outcome, through: Outcome) -> None:
    _alike(direct, through, "path", "type", "options")


def _refused(said: str) -> Callable[[Outcome, Outcome], None]:
    def check(_direct: Outcome, through: Outcome) -> None:
        assert not through["ok"]
        assert said in json.dumps(through["data"])

    return check


DIFFERENT: Final[Mapping[str, Callable[[Outcome, Outcome], None]]] = {
    "lookup_self": _lookup,
    "preflight": _mount,
    "foreign_mount": _refused("tenant may use"),
    "wrapped": _refused("response wrapping"),
    "login": _refused("of sys/ and auth/ are served"),
    "renew_self": _refused("this token is not renewable"),
}
"""The steps that security makes others, and what they then come to."""

_NEW: Final = frozenset({"request_id", "cluster_id", "cluster_name", "server_time_utc", "RawResponse"})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)")


def normal(value: Any) -> Any:
    """A value without what is new in each run: ids, times, and what a transit key makes."""
    if isinstance(value, dict):
        return {name: normal(inner) for name, inner in value.items() if name not in _NEW}
    if isinstance(value, list):
        return [normal(inner) for inner in value]
    if isinstance(value, str):
        text = re.sub(r"vault:v(\d+):\S+", r"vault:v\1", _TIME.sub("time", value))
        return re.sub(r"http://127\.0\.0\.1:\d+", "http://openbao", text)
    if isinstance(value, int) and value > 10**9:
        return "time"
    return value


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_does_through_the_sidecar_what_it_does_directly(both: Both, name: str, tmp_path: Path) -> None:
    client = CLIENTS[name]
    direct, through = client(both.direct, tmp_path), client(both.through, tmp_path)
    assert [outcome["step"] for outcome in direct] == [outcome["step"] for outcome in through]
    differing: dict[str, tuple[Any, Any]] = {}
    for one, other in zip(direct, through, strict=True):
        if one["step"] in DIFFERENT:
            DIFFERENT[one["step"]](one, other)
        elif normal(one) != normal(other):
            differing[one["step"]] = normal(one), normal(other)
    assert not differing, json.dumps(differing, indent=1, ensure_ascii=False)
    assert DIFFERENT.keys() <= {outcome["step"] for outcome in direct}
    done = {outcome["step"]: outcome["ok"] for outcome in direct}
    assert all(done[step] for step in ("kv2_put", "kv2_odd_get", "kv2_destroy", "kv1_get", "transit_round_trip"))
    refused = {step for step, ok in done.items() if not ok}
    assert refused >= {"kv2_denied", "kv2_put_stale"}
    assert both.sidecar.verify() == 0


def test_bao_agent_renders_a_template_through_the_sidecar_as_directly(both: Both, tmp_path: Path) -> None:
    since = len(both.sidecar.records())
    rendered = [render(place, tmp_path / name) for place, name in ((both.direct, "direct"), (both.through, "through"))]
    assert rendered == ["app db-password-canary"] * 2
    asked = {record.get("operation") for record in both.sidecar.records()[since:]}
    assert asked == {"local.lookup-self", "local.ui-mounts", "kv2.read"}


TEMPLATE: Final = (
    r"{{ with secret \"secret/data/app/db\" }}{{ .Data.data.username }} {{ .Data.data.password }}{{ end }}"
)


def render(place: Place, folder: Path) -> str:
    """What `bao agent` makes of a template, with a token from a file, as a projected token comes."""
    folder.mkdir()
    (folder / "token").write_text(place.token())
    (folder / "agent.hcl").write_text(
        f"""
pid_file = "{folder}/pid"
exit_after_auth = true
vault {{ address = "{place.url}" }}
auto_auth {{
  method "token_file" {{
    config = {{ token_file_path = "{folder}/token" }}
  }}
}}
template_config {{ exit_on_retry_failure = true }}
template {{
  contents    = "{TEMPLATE}"
  destination = "{folder}/rendered"
}}
"""
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
    done = subprocess.run(
        [str(find_binary()), "agent", f"-config={folder / 'agent.hcl'}"],
        env=environment | {"HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return (folder / "rendered").read_text()
