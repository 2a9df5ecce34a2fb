"""How a signal stops the program: its handler sets `STOP`, and code that takes long polls it.

Laws:
- A handler does nothing else. No exception is raised at an arbitrary instruction, so no step is left half done.
- `STOP.check()` stands wherever work takes long and may end: each 8 MiB copied, each block hashed or compared, each
  file opened, each piece of a matrix, each wait. A commit and the removal of a staging directory never call it.
- Nothing slow is imported here: the program installs its handlers before all other imports.
"""

from __future__ import annotations

import signal
import time

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StoppedError(Exception):
    """A signal has asked the program to end. It is not a RewriterError: nothing reports it as a fault of a file."""


class StopToken:
    """The first signal that asked the program to end: `number`, 0 before it, and when it came, in seconds.

    It is not a threading.Event: the thread that a handler runs in may hold the lock of one.
    """

    number = 0
    since = 0.0

    def set(self, number: int) -> None:
        """Ask the program to end because of signal `number`."""
        self.number, self.since = number, time.monotonic()

    def is_set(self) -> bool:
        """Whether the program is to end."""
        return self.number != 0

    def check(self) -> None:
        """Raise StoppedError if the program is to end."""
        if self.number:
            raise StoppedError


STOP = StopToken()
