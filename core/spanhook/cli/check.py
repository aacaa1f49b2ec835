"""`spanhook check`: is this configuration right, and what would run?"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from spanhook import config_files
from spanhook.errors import ConfigError
from spanhook.plugins import loading
from spanhook.printable import printable


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Validate a tracing.toml and say what would run.

    Without FILE it looks where `spanhook.configure()` would look from here. Loads the chosen plugins, as
    `configure` does, and lets them go again. Exit status 1 with every problem, one a line.
    """
    out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        config = config_files.read(file)
        plugins = loading.load(config)
    except ConfigError as error:
        for problem in error.problems:
            err.print(Text(printable(problem), style="red"))
        count = len(error.problems)
        err.print(f"{count} problem{'s' if count > 1 else ''}; nothing would run.", markup=False)
        raise SystemExit(1) from None
    loading.close(plugins)
    tracing = config.settings.tracing
    source = "no file found: the defaults" if config.places.origin == "defaults" else config.places.origin
    out.print(Text.assemble(("✓ ", "green"), printable(source)))
    lines = {
        "traced": {"all": "every DSPy call", "wrapped": "programs given to tracer.wrap"}[tracing.instrument],
        "extractors": ", ".join(tracing.extractors) or "none",
        "backends": ", ".join(tracing.backends),
        "capture": {"full": "full: inputs, outputs and messages", "metadata": "metadata: no content"}[tracing.capture],
        "sample": f"{tracing.sample_rate:.0%} of traces" if tracing.sample_rate < 1 else "every trace",
    }
    if not tracing.enabled:
        lines = {"traced": "nothing: enabled = false"}
    for name, value in lines.items():
        out.print(Text(f"  {name:<11}{printable(value)}"))
