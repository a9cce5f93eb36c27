"""Ctrl-C and the system's request to end, turned into a flag that a session can look at."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopSignals:
    """Notes the first SIGINT or SIGTERM; a second one interrupts at once with `KeyboardInterrupt`.

    Python delivers signals to the main thread only, so elsewhere this does nothing.

    Attributes
    ----------
    reason : str or None
        Who asked to stop, once someone did.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._originals: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Remember the handlers in place and put ours there."""
        if threading.current_thread() is threading.main_thread():
            self._originals = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the original handlers back."""
        for number, original in self._originals.items():
            # A handler that was not installed from Python reads as None and cannot be put back.
            signal.signal(number, signal.SIG_DFL if original is None else original)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = _NAMES[signal.Signals(number)]
