"""The Collector's configurations are whole, and select spans by attributes that the otlp backend really gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("opentelemetry.proto")

import yaml

from spanhook import Span
from spanhook_backends.otlp.conventions import SIGNAL_EVENT, Names
from spanhook_backends.otlp.convert import Converter

EXAMPLE = Path(__file__).parents[2] / "examples" / "collector"


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["config.yaml", "front.yaml"])
def test_every_part_is_used_and_every_part_that_is_used_is_there(name: str) -> None:
    """A reference that leads nowhere keeps a Collector from starting."""
    config = load(name)
    (pipeline,) = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(config[kind])
    extensions = set(config.get("extensions", {}))
    assert set(config["service"].get("extensions", ())) == extensions
    stores = {
        e["sending_queue"]["storage"] for e in config["exporters"].values() if "storage" in e.get("sending_queue", {})
    }
    assert stores <= extensions


def test_the_policies_look_at_what_a_span_has() -> None:
    """Cost by the attribute's own name, feedback by its event's."""
    policies = {policy["name"]: policy for policy in load("config.yaml")["processors"]["tail_sampling"]["policies"]}
    span = Span("a" * 32, "b" * 16, None, "e", "module", "Answerer", 0, 1, cost_usd=0.5)
    attributes = Converter(Names("both")).attributes(span, {}, is_agent=False)
    (condition,) = policies["expensive"]["ottl_condition"]["span"]
    found = re.fullmatch(r'attributes\["(.+)"\] >= 0\.10', condition)
    assert found is not None
    assert attributes[found[1]] == 0.5
    assert policies["feedback"]["ottl_condition"]["spanevent"] == [f'name == "{SIGNAL_EVENT}"']
    for policy in policies.values():
        assert policy["type"] in policy


def test_the_readme_names_every_variable() -> None:
    """What has to be set before it starts."""
    used = set(re.findall(r"\$\{env:(\w+)\}", "".join(path.read_text() for path in EXAMPLE.glob("*.yaml"))))
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert {name for name in used if f"`{name}`" not in readme} == set()
