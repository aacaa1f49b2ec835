"""Forking a process, and what another thread is in the middle of at that moment."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from doubles import WAIT_S


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, run `work` in the child and end it at once; its result, through JSON. A child that hangs is killed."""
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(question, json.dumps(work()).encode())
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(question)
    waiting = (
        select.poll()
    )  # `select.select` takes no number of a file above 1,023, and a whole run of tests may have those
    waiting.register(answer, select.POLLIN)
    ready = waiting.poll(WAIT_S * 1000)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(answer, "rb") as pipe:
        assert ready, "the child hung"
        assert status == 0
        return json.loads(pipe.read())


class Writing:
    """Something that another thread is in the middle of for a while, when this one forks."""

    def __init__(self) -> None:
        self.is_over = False
        self._began, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        """What takes its time."""
        self._began.set()
        self._goes_on.wait(WAIT_S)
        self.is_over = True

    def is_over_in_child(self) -> bool:
        """Fork in the middle of it, and have it end meanwhile; whether the child came after its end."""
        assert self._began.wait(WAIT_S)
        ending = threading.Timer(0.2, self._goes_on.set)
        ending.start()
        try:
            return bool(in_child(lambda: self.is_over))
        finally:
            ending.join()
