"""Which objects are plugins, and which of those that are installed are loaded."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from typing import Any

import pluggy
import pytest

import spanhook
from doubles import Memory, install, one_span, tracer_of
from spanhook import ConfigError, PluginError
from spanhook.hookspecs import BACKEND_HOOKS, EXTRACTOR_HOOKS, HookSpecs
from spanhook.plugins.discovery import installed
from spanhook.plugins.registration import register

hook = spanhook.hookimpl


def plugin(**methods: Any) -> Any:
    """An object with these functions as its methods."""
    return type("Plugin", (), methods)()


async def plain_async(self, spans): ...


async def async_generator(self, spans):
    yield


def generator() -> Any:
    def emit(self, spans):
        yield

    return emit


WRONG = {
    "a class": (Memory, "Memory is a class; give an instance of it"),
    "no hooks": (plugin(), "implements no hook; mark its methods with @spanhook.hookimpl"),
    "no marks": (plugin(emit=lambda self, spans: None), "implements no hook; mark its methods with @spanhook.hookimpl"),
    "no object": (None, "implements no hook; mark its methods with @spanhook.hookimpl"),
    "a forgotten mark": (
        plugin(emit=lambda self, spans: None, identify=hook(lambda self: None)),
        "emit: not marked; put @spanhook.hookimpl above it",
    ),
    "nothing to get": (
        plugin(flush=hook(lambda self: None)),
        "implements no emit, identify or track_signal, so it would get nothing",
    ),
    "misspelt": (plugin(emitt=hook(lambda self, spans: None)), "'emitt' is no hook (did you mean 'emit'?)"),
    "far off": (
        plugin(zzz=hook(lambda self: None)),
        "'zzz' is no hook "
        "(known: emit, flush, identify, redact, shutdown, span_end, span_start, trace_parent, track_signal)",
    ),
    "async": (
        plugin(emit=hook(plain_async)),
        "emit is async; hooks are plain functions (run your own loop if you need one)",
    ),
    "async generator": (
        plugin(emit=hook(async_generator)),
        "emit is async; hooks are plain functions (run your own loop if you need one)",
    ),
    "generator": (
        plugin(emit=hook(generator())),
        "emit is a generator, which calling it would not run; return instead of yield",
    ),
    "wrapper": (
        plugin(emit=hook(wrapper=True)(generator())),
        "emit is a wrapper; plugins are called one by one, there is nothing to wrap",
    ),
    "old wrapper": (
        plugin(emit=hook(hookwrapper=True)(generator())),
        "emit is a wrapper; plugins are called one by one, there is nothing to wrap",
    ),
    "default": (
        plugin(emit=hook(lambda self, spans=(): None)),
        "emit has an argument with a default, spans: it would never be passed; remove the default",
    ),
    "unknown argument": (
        plugin(track_signal=hook(lambda self, signal, user: None)),
        "track_signal(signal, user) asks for arguments that the hook doesn't have; it has signal",
    ),
    "keyword-only": (
        plugin(span_end=hook(lambda self, *, call: None)),
        "span_end has a keyword-only argument, call: it gets plain ones, of span, call",
    ),
    "star": (
        plugin(emit=hook(lambda self, *spans: None)),
        "emit has a variadic positional argument, spans: it gets plain ones, of spans",
    ),
    "two stars": (
        plugin(emit=hook(lambda self, **more: None)),
        "emit has a variadic keyword argument, more: it gets plain ones, of spans",
    ),
    "another project's mark": (
        plugin(emit=pluggy.HookimplMarker("other")(lambda self, spans: None)),
        "implements no hook; mark its methods with @spanhook.hookimpl",
    ),
}


@pytest.mark.parametrize(("instance", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_plugin_is_refused(instance, problem):
    """At once and in the author's words, instead of at the first call or never."""
    with pytest.raises(PluginError) as caught:
        register("backend", "mine", instance)
    assert str(caught.value) == f"backend 'mine': {problem}"
    with pytest.raises(ConfigError) as in_code:
        tracer_of(instance)
    assert problem in str(in_code.value)


def test_a_property_that_raises_is_no_traceback_of_ours():
    """Some releases of pluggy read every attribute of a plugin: then too it is a clear error that names the plugin."""

    class Plugin:
        @property
        def client(self) -> Any:
            raise RuntimeError("not connected")

    with pytest.raises(PluginError, match=r"^backend 'mine': (implements no hook|RuntimeError: not connected)"):
        register("backend", "mine", Plugin())


def test_an_extractor_with_a_backends_hook_is_refused():
    """A backend may have all hooks, an extractor only its own two."""
    with pytest.raises(PluginError, match="which extractors don't have; make it a backend"):
        register("extractor", "mine", Memory())


def decorated(function):
    """A decorator that keeps the signature, but not the name."""
    wrapper = functools.wraps(function)(lambda *arguments: function(*arguments))
    wrapper.__name__ = "wrapper"
    return wrapper


def module_plugin() -> types.ModuleType:
    module = types.ModuleType("module_plugin")
    module.emit = hook(lambda spans: spans)  # type: ignore[attr-defined]
    return module


RIGHT = {
    "function with another name": plugin(emit=hook(lambda self, spans: spans)),
    "another name for the hook": plugin(send=hook(specname="emit")(lambda self, spans: spans)),
    "decorated": plugin(emit=hook(decorated(lambda self, spans: spans))),
    "static": plugin(emit=staticmethod(hook(lambda spans: spans))),
    "positional-only": plugin(emit=hook(lambda self, spans, /: spans)),
    "module": module_plugin(),
    "a hook of a later release": plugin(
        emit=hook(lambda self, spans: spans), pause=hook(optionalhook=True)(lambda self: None)
    ),
}


@pytest.mark.parametrize("instance", RIGHT.values(), ids=RIGHT.keys())
def test_what_python_and_pluggy_allow_works(instance):
    """However a hook's function came to be, it is called with the hook's arguments."""
    hooks = register(None, "mine", instance).hooks
    assert set(hooks) == {"emit"}
    assert hooks["emit"]([1]) == [1]


@pytest.mark.parametrize("name", sorted(EXTRACTOR_HOOKS | BACKEND_HOOKS))
def test_a_hook_may_leave_out_arguments_and_reorder_them(name):
    """For each hook: none of the arguments, each one alone, and all of them backwards."""
    parameters = [p for p in vars(HookSpecs)[name].__code__.co_varnames if p != "self"]
    for wanted in ([], *([p] for p in parameters), parameters[::-1]):
        function = eval(f"lambda self, {', '.join(wanted)}: [{', '.join(wanted)}]")
        needed = {"emit": hook(lambda self: None)} if name in BACKEND_HOOKS - EXTRACTOR_HOOKS else {}
        call = register(None, "mine", plugin(**{**needed, name: hook(function)})).hooks[name]
        assert call(*(f"the {p}" for p in parameters)) == [f"the {p}" for p in wanted]


def test_plugins_that_are_equal_are_two_plugins():
    """A plugin's own __eq__ and __repr__ are not ours to call: equal ones run side by side, and no repr is shown."""

    @dataclasses.dataclass
    class Sink:
        api_key: str
        seen: list[Any] = dataclasses.field(default_factory=list, compare=False)

        @hook
        def emit(self, spans):
            self.seen += spans

        def __repr__(self):
            raise AssertionError(self.api_key)

    one, two = Sink("k"), Sink("k")
    tracer = tracer_of(one, two)
    one_span(tracer)
    assert tracer.flush()
    assert len(one.seen) == len(two.seen) == 1


BACKEND = """
    import spanhook
    class Sink:
        made = 0
        def __init__(self{arguments}):
            type(self).made += 1
            self.given = dict(locals())
        @spanhook.hookimpl
        def emit(self, spans): ...
"""


def configured(*backends: str, plugins: Any = None, **options: Any) -> spanhook.Tracer:
    return spanhook.configure(
        {"tracing": {"extractors": [], "backends": list(backends)}, "backends": options}, plugins=plugins
    )


def test_only_what_is_chosen_is_imported(site):
    """An installed plugin that nobody names costs nothing and can break nothing, not even with options."""
    install(site, "one", backends="chosen = chosen_one:Sink", chosen_one=BACKEND.format(arguments=""))
    install(site, "two", backends="other = broken_one:Sink", broken_one="raise SystemExit('imported')")
    configured("chosen", other={"level": 1})
    assert "chosen_one" in sys.modules
    assert "broken_one" not in sys.modules


@pytest.mark.parametrize(
    "arguments", ["", ", options", ", tracing", ", options, tracing", ", *, tracing", ", size=3, **more"]
)
def test_a_class_gets_what_its_signature_asks_for(site, arguments):
    """Of its validated options and the `[tracing]` settings, in any order and form; its own defaults stay."""
    source = BACKEND.format(arguments=arguments).replace(
        "        made = 0\n",
        "        made = 0\n        class Options(spanhook.PluginOptions):\n            level: int = 1\n",
    )
    install(site, "one", backends="sink = sink_module:Sink", sink_module=source)
    seen: list[Any] = []
    tracer = configured("sink", sink={"level": "2"}, plugins={"probe": Memory(seen.append)})
    given = next(p for p in _instances(tracer) if type(p).__name__ == "Sink").given
    assert ("options" in given) == ("options" in arguments)
    assert ("tracing" in given) == ("tracing" in arguments)
    assert given.get("options") is None or given["options"].level == 2
    assert given.get("tracing") in (None, tracer.settings.tracing)
    assert given.get("size", 3) == 3


def _instances(tracer: spanhook.Tracer) -> list[Any]:
    return [worker._plugin.instance for worker in tracer._pipeline._workers.values()]


@pytest.mark.parametrize("target", ["Sink()", "__import__('sys').modules[__name__]", "lambda: Sink()"])
def test_an_entry_point_may_be_an_object_a_module_or_a_function(site, target):
    """Whatever it leads to, it is called if it can be called and taken as it is otherwise."""
    source = (
        BACKEND.format(arguments="")
        + f"""
    emit = spanhook.hookimpl(lambda spans: None)
    target = {target}
    """
    )
    install(site, "one", backends="sink = sink_module:target", sink_module=source)
    tracer = configured("sink")
    one_span(tracer)
    assert tracer.flush()


BROKEN = {
    "missing package": (
        "import not_installed_at_all",
        "ModuleNotFoundError: No module named 'not_installed_at_all'",
    ),
    "raises": ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
    "no such class": ("", "AttributeError: module 'sink_module' has no attribute 'Sink'"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_chosen_plugin_that_cant_be_loaded(site, source, reason):
    """Names the entry point, the distribution and what to install."""
    install(site, "one", backends="sink = sink_module:Sink", sink_module=source)
    with pytest.raises(ConfigError) as caught:
        configured("sink")
    assert str(caught.value) == (
        "configure(): tracing.backends.0: backend 'sink' can't be loaded "
        f"(entry point sink = sink_module:Sink, distribution one 1.0): {reason}"
    )


def test_two_distributions_with_one_name(site):
    """Neither is taken by chance."""
    for name in ("one", "two"):
        install(site, name, backends="sink = sink_module:Sink")
    with pytest.raises(ConfigError, match="comes from two distributions, one and two; uninstall one of them"):
        configured("sink")


def test_a_broken_install_of_someone_else_does_no_harm(site):
    """A distribution without metadata, as an interrupted pip leaves it, is no reason to fail."""
    install(site, "half", backends="half = nowhere:Half", metadata=False)
    install(site, "one", backends="sink = sink_module:Sink", sink_module=BACKEND.format(arguments=""))
    configured("sink")
    assert {"half", "sink"} <= {plugin.name for plugin in installed("backend")}


def test_a_name_in_the_configuration_and_in_code(site):
    """One of them would hide the other, so it is an error; an extractor may share a backend's name."""
    install(site, "one", backends="sink = sink_module:Sink", sink_module=BACKEND.format(arguments=""))
    with pytest.raises(ConfigError) as caught:
        configured("sink", plugins={"sink": Memory()})
    assert str(caught.value) == (
        "configure(plugins=…): backend 'sink' is in the configuration too; give one of them another name"
    )
    configured("sink", plugins={"sink": plugin(span_end=hook(lambda self: None))})
