"""Requests to stop: Ctrl-C, SIGTERM (a preemption) and SIGUSR1 (Slurm's warning)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn signals into a request that is honoured after the step.

    A second Ctrl-C stops at once; a scheduler may send as many signals as it likes.
    """
    requests: list[int] = []
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield lambda: False
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def ask(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in requests:
            raise KeyboardInterrupt
        requests.append(number)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield lambda: bool(requests)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
