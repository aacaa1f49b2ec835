"""`spanhook check`: is this configuration right, and what would run?"""

from __future__ import annotations

import logging
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from spanhook.cli.streams import tick
from spanhook.config.environment import option_variables
from spanhook.config.problems import DEFAULTS
from spanhook.config.settings import Settings
from spanhook.configuring import prepare
from spanhook.errors import ConfigError
from spanhook.plugins import loading
from spanhook.printable import printable


@click.command(short_help="Validate a tracing.toml and say what would run.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Validate a tracing.toml and say what would run.

    Without FILE it looks where `spanhook.configure()` would look from here. Loads the chosen plugins and makes the
    spool's directory, as `configure` does, and lets the plugins go again. Exit status 1 with every problem, one a line.
    """
    out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    warnings = _Warnings()
    logger = logging.getLogger("spanhook")
    logger.addHandler(warnings)
    try:
        config, plugins = prepare(file)
    except ConfigError as error:
        for problem in error.problems:
            err.print(Text(printable(problem), style="red"))
        count = len(error.problems)
        err.print(f"{count} problem{'s' if count > 1 else ''}; nothing would run.", markup=False)
        raise SystemExit(1) from None
    finally:
        logger.removeHandler(warnings)
    loading.close(plugins)
    origin = config.places.origin
    out.print(
        Text.assemble((f"{tick(out)} ", "green"), "no file found: the defaults" if origin == DEFAULTS else origin)
    )
    lines = _what_runs(config.settings) if config.settings.tracing.enabled else {"traced": "nothing: enabled = false"}
    if variables := sorted(option_variables().values()):
        lines["variables"] = ", ".join(variables)
    for name, value in lines.items():
        out.print(Text(f"  {name:<11}{printable(value)}"))
    for warning in warnings.said:
        out.print(Text(f"  {'warning':<11}{printable(warning)}", "yellow"))


class _Warnings(logging.Handler):
    """Keeps what is logged, for the command to show: of a plugin that can do nothing with its options, for example."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _what_runs(settings: Settings) -> dict[str, str]:
    tracing, redact, spool = settings.tracing, settings.redact, settings.delivery.spool
    sample = f"{tracing.sample_rate * 100:g}% of traces" if tracing.sample_rate < 1 else "every trace"
    if tracing.keep:
        sample += f", and those kept by {', '.join(tracing.keep)}"
    traced = {"all": "every DSPy call", "wrapped": "programs given to tracer.wrap"}[tracing.instrument]
    own = f"; patterns of yours: {len(redact.patterns)}, fields: {len(redact.fields)}"
    known = f"the secrets that are known{own if redact.patterns or redact.fields else ''}"
    return {
        "traced": traced if tracing.adapter_spans else f"{traced}; adapters have no spans",
        "extractors": ", ".join(tracing.extractors) or "none",
        "backends": ", ".join(tracing.backends),
        "capture": {"full": "full: inputs, outputs and messages", "metadata": "metadata: no content"}[tracing.capture],
        "redact": known if redact.enabled else "nothing: secrets in texts go out as they are",
        "sample": sample,
        "compile": {
            "full": "full: every call of an optimizer's run",
            "summary": "summary: of an optimizer's run its own span and its evaluations'",
            "off": "off: nothing of an optimizer's run",
        }[tracing.compile],
        "spool": "none: what is not delivered yet is in memory" if spool is None else str(spool),
    }
