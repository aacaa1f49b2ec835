"""A model, Raindrop and Opik on this machine, to try things out with: `python tests/stand_ins.py` and Ctrl-C.

They are the servers of the tests: they take what the real ones take, refuse what those refuse, and each line printed is
something that arrived, or the reason why it was refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "backends")]  # run as a script

# ruff: noqa: E402
from opik_server import OpikServer
from raindrop_server import RaindropServer

from lm_server import API_KEY, LMServer

HOW_TO_REACH_THEM = """\
[tracing]
backends = ["raindrop", "opik"]

[backends.raindrop]
api_key = "{raindrop.key}"
endpoint = "{raindrop.endpoint}"

[backends.opik]
api_key = "{opik.api_key}"
workspace = "{opik.workspace}"
host = "{opik.url}"

# dspy.LM("openai/test-model", api_base="{lm.url}", api_key="{key}")"""


def main() -> None:
    """Print what arrives, until interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--lm-port", type=int, default=8001)
    parser.add_argument("--raindrop-port", type=int, default=8002)
    parser.add_argument("--opik-port", type=int, default=8003)
    ports = parser.parse_args()
    with (
        LMServer(port=ports.lm_port) as lm,
        RaindropServer(ports.raindrop_port) as raindrop,
        OpikServer(port=ports.opik_port) as opik,
    ):
        print(HOW_TO_REACH_THEM.format(lm=lm, raindrop=raindrop, opik=opik, key=API_KEY), flush=True)
        raindrop.on_arrival = lambda what, item: _show("raindrop", what, item)
        opik.on_arrival = lambda what, item: _show("opik", what, item)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _show(where: str, what: str, item: Any) -> None:
    print(json.dumps({f"{where}.{what}": asdict(item) if is_dataclass(item) else item}), flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
