"""`spanhook demo`: trace a DSPy program that calls a real language model, with no key and no network."""

from __future__ import annotations

import logging
import os
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext

import click
import dspy
from dspy.utils.exceptions import AdapterParseError
from rich.console import Console

import spanhook
from spanhook.cli import demo_program
from spanhook.cli.demo_model import INSTALL_COMMANDS, DemoModel, ModelUnavailableError, real_model, scripted_model
from spanhook.config.environment import option_variables
from spanhook.printable import printable

QUESTION = "Where is order 17?"
CONFIG = {
    "tracing": {"service": "spanhook-demo", "backends": ["structlog"]},
    "backends": {"structlog": {"format": "tree", "stream": "stdout"}},  # by default JSON where it is no terminal
}


@click.command(short_help="Trace a small program: no key, no network.")
@click.option("--scripted", is_flag=True, help="Let a scripted LM answer, even where the small model is installed.")
def demo(scripted: bool) -> None:
    """Trace a DSPy program that calls a small real model on this machine: no key, no network."""
    started = time.monotonic()
    _stay_on_this_machine()
    for variable in option_variables().values():  # they are for the user's own program, and may switch tracing off
        del os.environ[variable]
    logging.getLogger("dspy").setLevel(logging.ERROR)  # it would warn of the failure that is made on purpose
    with ExitStack() as stack:
        model = _serve(stack, scripted)
        dspy.configure_cache(enable_disk_cache=False)  # memory only: nothing from earlier runs, nothing left behind
        lm = dspy.LM(
            f"openai/{model.name}",
            api_base=model.url,
            api_key="none",
            temperature=0,
            max_tokens=120,
            num_retries=0,
            response_format={"type": "json_object"},
        )
        dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
        tracer = spanhook.configure(CONFIG)
        stack.callback(tracer.shutdown)

        _step("1. A module of its own, with a ReAct agent and a tool")
        click.echo(
            "One line a call: how long it took, what came of it; for the model, its tokens and why it stopped.\n"
        )
        event_id = _ask(tracer)
        _step("2. The same question again: DSPy's cache answers, and no token is spent")
        _ask(tracer)
        _step("3. An error: with 4 tokens to answer in, the model is cut off (finish reason: length)")
        with dspy.context(lm=lm.copy(max_tokens=4)):
            _ask(tracer)
        _step("4. What the user thought of the first answer")
        accepted = tracer.track_signal(event_id, "thumbs_up", "feedback", comment="Quick!", sentiment="POSITIVE")
        delivered = tracer.flush()
        click.echo(f"track_signal() -> {accepted}, flush() -> {delivered}")
        for name, stats in tracer.stats().backends.items():
            lost = stats.lost() or "nothing lost"
            click.echo(f"stats() -> {name}: {stats.delivered} of {stats.accepted} delivered, {lost}")
    click.echo(f"\nDone in {time.monotonic() - started:.0f} s. {NEXT}")


def _stay_on_this_machine() -> None:
    """Have the model called directly even where a proxy is set, and LiteLLM not look for its price list online."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{direct},127.0.0.1" if direct else "127.0.0.1"


def _serve(stack: ExitStack, scripted: bool) -> DemoModel:
    """Start the real model, or say why not and start the scripted one; the stack stops it."""
    if not scripted:
        started = time.monotonic()
        try:
            with _progress("A small language model is being loaded"):
                model = stack.enter_context(real_model())
        except ModelUnavailableError as reason:
            click.echo(f"It can't run: {reason}. To have it:\n")
            click.echo("".join(f"    {command}\n" for command in INSTALL_COMMANDS))
        else:
            click.echo(f"{model.name} answers at {model.url} after {time.monotonic() - started:.1f} s.")
            return model
    model = stack.enter_context(scripted_model())
    click.echo(f"A scripted LM answers at {model.url}: its words and token counts are made up, the traces are real.")
    return model


def _step(title: str) -> None:
    click.secho(f"\n{title}\n", bold=True)


def _ask(tracer: spanhook.Tracer) -> str:
    """Ask the program once, as one interaction of one user; return the interaction's event id."""
    interaction = tracer.interaction(user_id="ada", convo_id="demo", event="support_question")
    try:
        with interaction, _progress("The program is running"):
            outcome = demo_program.SupportDesk()(question=QUESTION).answer
    except AdapterParseError as error:
        outcome = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    tracer.flush()
    click.echo(f"{QUESTION} -> {printable(outcome)}")
    return interaction.event_id


def _progress(what: str) -> AbstractContextManager[object]:
    """Say what takes a while: a spinner on a terminal, which is gone before the trace is printed; else a line."""
    console = Console()
    if console.is_terminal:
        return console.status(f"{what} ...")
    click.echo(f"{what} ...")
    return nullcontext()


NEXT = f"""Where to go next:

  import spanhook; spanhook.configure()   these two statements trace your own program
  spanhook plugins                        what tracing.toml can choose: extractors, and backends to send traces to
  spanhook check                          whether a tracing.toml is right, and what it would run
  {demo_program.__file__}
                                          the program that was traced: plain DSPy
"""
