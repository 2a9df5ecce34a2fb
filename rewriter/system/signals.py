"""What asks a program to end. Nothing slow is imported here: it is known before all else."""

import signal

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
