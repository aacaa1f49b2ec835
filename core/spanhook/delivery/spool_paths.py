"""The files of the spool by their names; SQLite has two of its own beside each."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

SUFFIX = ".db"
_BESIDE = ("-wal", "-shm")


def new_path(folder: Path) -> Path:
    """A name that no file has had."""
    return folder / f"{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"


def remove(path: Path) -> None:
    """Remove a file, as far as that is possible."""
    with contextlib.suppress(OSError):
        for each in (path, *(Path(f"{path}{ending}") for ending in _BESIDE)):
            each.unlink(missing_ok=True)


def rename(path: Path, new: Path) -> None:
    """Give a file another name, and what SQLite has beside it: what it had committed last may be there alone.

    Raises:
        OSError: that is not possible.
    """
    path.rename(new)
    for ending in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{new}{ending}")
