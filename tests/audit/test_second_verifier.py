"""The format page is enough: a verifier in another language (Go, its standard library only) agrees with ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.audit.reader import read_all
from tests.audit.chains import OTHER, first_break, run
from tests.audit.keys import Keys
from tests.audit.spools import journal_in, permit
from tests.audit.test_checkpoint import CHECKPOINT, forged_from, permits
from tests.audit.test_format import vectors

pytestmark = pytest.mark.real
SOURCE = Path(__file__).parent / "verifier" / "main.go"


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("verifier") / "verifier"
    go = shutil.which("go")
    assert go, "Go is needed: see `make doctor`"
    subprocess.run([go, "build", "-o", binary, SOURCE], check=True, timeout=300)
    return binary


def said(verifier: Path, records: list[bytes], *key: Path) -> str:
    done = subprocess.run([verifier, *key], input=b"\n".join(records), capture_output=True, timeout=60, check=False)
    return done.stdout.decode().split()[0]


def test_it_agrees_on_the_vectors_and_on_what_must_be_found(verifier: Path) -> None:
    one, two, three = vectors()
    cases = [
        [one, two, three],
        [one, two.replace("é".encode(), b"e"), three],
        [one, three],
        [one, three, two],
        [one, two, two, three],
        [two, three],
        [*run(3), *run(2, OTHER)],
        [*run(3), *run(2, OTHER)[1:]],
        [b"{}"],
    ]
    verdicts = [said(verifier, case) for case in cases]
    assert verdicts == ["OK" if first_break(case) is None else "BROKEN" for case in cases]
    assert verdicts.count("OK") == 2


async def test_it_agrees_on_signed_checkpoints(verifier: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    async with journal_in(tmp_path / "spool", checkpoints=keys.checkpoints()) as journal:
        await journal.append_many([permit(f"é-{n}") for n in range(35)])
    kept = [line.record for line in read_all([tmp_path / "spool"])]
    assert said(verifier, kept, keys.public) == "OK"
    assert said(verifier, kept, Keys(tmp_path, "other").public) == "BROKEN"
    for tail in (permits(11), [*permits(2), CHECKPOINT]):
        forged = forged_from(kept, 13, tail, None)
        assert said(verifier, forged) == "OK"
        assert said(verifier, forged, keys.public) == "BROKEN"
