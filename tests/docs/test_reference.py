"""The reference is complete: each hook, public name, option and variable is in it as it is in the code."""

import inspect
import re
import typing
from dataclasses import fields
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

import spanhook
import spanhook.testing
from spanhook.cli import main
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, HookSpecs

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
TRACER = [name for name in vars(spanhook.Tracer) if not name.startswith("_")]
CALLABLES = {
    **{f"Tracer.{name}": getattr(spanhook.Tracer, name) for name in TRACER if callable(getattr(spanhook.Tracer, name))},
    "configure": spanhook.configure,
    "event_id_of": spanhook.event_id_of,
    "current_span": spanhook.current_span,
    "add_trace_ids": spanhook.add_trace_ids,
    "attach": spanhook.attach,
    "inject": spanhook.inject,
    "read_settings": spanhook.read_settings,
    "without_forks": spanhook.without_forks,
    "attribute_of": spanhook.attribute_of,
    "warn": spanhook.warn,
    "capture_spans": spanhook.testing.capture_spans,
}
TABLES = (
    spanhook.Span,
    spanhook.Usage,
    spanhook.SpanError,
    spanhook.RemoteParent,
    spanhook.Signal,
    spanhook.Call,
    spanhook.Stats,
    spanhook.BackendStats,
)


def _page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def _section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one that is not below it."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", _page(page), re.M)
    assert found, f"{page}.md has no heading {heading!r}"
    below = _page(page)[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", below, re.M)
    return below[: end.start()] if end else below


def _toml(value: object) -> str:
    """A default as the configuration page writes it."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"`[{', '.join(_toml(item).strip('`') for item in value)}]`"
    if isinstance(value, BaseModel):  # an option that is on, with details of its own
        return "`true`"
    text = f'"{value}"' if isinstance(value, (str, Path)) else str(value).lower()
    return f"`{text}`"


def _signature(function: typing.Any) -> str:
    """`name(a, b=1)`, without types and self."""
    parameters = [
        p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values() if p.name != "self"
    ]
    return f"{function.__name__}{inspect.Signature(parameters)}"


@pytest.mark.parametrize("hook", sorted(EXTRACTOR_HOOKS | BACKEND_HOOKS))
def test_every_hook_is_documented_with_its_exact_signature(hook):
    """What a plugin's author copies from the reference is what pluggy checks."""
    signature = str(inspect.signature(getattr(HookSpecs, hook))).replace("'", "")
    assert f"def {hook}{signature}: ..." in _section("hooks", hook)


def test_no_hook_is_documented_that_is_not_there():
    """A hook that was renamed or removed leaves the reference."""
    assert set(re.findall(r"^### (\w+)$", _page("hooks"), re.M)) == EXTRACTOR_HOOKS | BACKEND_HOOKS


@pytest.mark.parametrize("name", spanhook.__all__)
def test_every_public_name_is_in_the_reference(name):
    """Whatever can be imported from spanhook can be looked up."""
    assert re.search(rf"^#+ {name}$|`{name}`", _page("api"), re.M)


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_every_function_is_documented_with_its_arguments(name):
    """Names, order and defaults are those of the code."""
    assert f"`{_signature(CALLABLES[name])}`" in _section("api", name)


@pytest.mark.parametrize("name", TRACER)
def test_every_member_of_the_tracer_has_a_heading(name):
    """The tracer's properties, too."""
    assert f"### Tracer.{name}\n" in _page("api")


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_field_is_in_the_table_of_its_class(kind):
    """In the order of the code."""
    rows = re.findall(r"^\| `(\w+)` \|", _section("api", kind.__name__), re.M)
    assert rows == [field.name for field in fields(kind)]


def test_every_fact_that_an_extractor_may_give_is_named():
    """And nothing else is."""
    section = _section("api", "Facts").split("None means")[0]
    assert set(re.findall(r"`(\w+)`", section)) - {"span_end"} == set(spanhook.Facts.__annotations__)


@pytest.mark.parametrize("section", ["tracing", "delivery", "redact"])
def test_every_option_is_documented_with_its_default(section):
    """In the order of the code; a changed default is a failed test."""
    model = {
        "tracing": spanhook.TracingSettings,
        "delivery": spanhook.DeliverySettings,
        "redact": spanhook.RedactSettings,
    }[section]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", _section("configuration", f"`[{section}]`"), re.M)
    assert rows == [
        (name, _toml(field.get_default(call_default_factory=True))) for name, field in model.model_fields.items()
    ]


@pytest.mark.parametrize(
    "point",
    [p for p in distribution("spanhook").entry_points if p.group in ("spanhook.backends", "spanhook.extractors")],
    ids=lambda point: f"{point.group.removeprefix('spanhook.')}-{point.name}",
)
def test_every_plugin_is_documented_with_its_options(point):
    """Each plugin that we ship has a heading, and a row for each of its options, with the default."""
    section = _section(point.group.removeprefix("spanhook."), point.name)
    try:
        plugin = point.load()
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    model = getattr(plugin, "Options", None)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M)
    expected = [] if model is None else [(field.alias or name, field) for name, field in model.model_fields.items()]
    assert [name for name, _ in rows] == [name for name, _ in expected]
    for (name, shown), (_, field) in zip(rows, expected, strict=True):
        default = "required" if field.is_required() else _toml(field.get_default(call_default_factory=True))
        assert shown == default, name


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_is_documented_with_its_options(name):
    """Those of plugins of ours, too."""
    section = _section("command-line", f"spanhook {name}")
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [p.opts[0] for p in command.params if isinstance(p, click.Option)]
    assert [option for option in options if f"`{option}" not in section and f"{option}\n" not in section] == []
