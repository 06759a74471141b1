"""`python -m tests.secrets.yaml_file.writer FILE`: writes key after key of one secret, and says each that it wrote."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from sidecar.secrets.changes import change, to_value
from sidecar.secrets.providers.yaml_file import YamlFile
from tests.secrets.yaml_file.making import Working, uri


async def main(path: Path) -> None:
    provider = YamlFile(path, read_only=False)
    for number in itertools.count():
        one = uri(f"app/raced#k{number}")
        await change(Working(), provider, one, to_value(one, number), None)
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
