"""What every test relies on, wherever it is started."""

import signal
import sys

from tests.support.command_line import run  # noqa: F401  # a fixture of every command-line test

# A run in the background of a script, or under nohup, ignores these, and so would all programs that tests start.
for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# These put doubles in the place of Linux's own calls, or limit a process as only Linux does.
LINUX_ALONE = [
    "formats/scenarios/test_broken.py",
    "formats/test_limits.py",
    *(f"writing/test_{name}.py" for name in ("commit", "copy", "execute", "resume", "staging", "write")),
    *(f"writing/scenarios/test_{name}.py" for name in ("faults", "portability", "sharing", "systems")),
]
collect_ignore = [] if sys.platform == "linux" else LINUX_ALONE
