"""What every test relies on, wherever it is started."""

import signal

# A run in the background of a script, or under nohup, ignores these, and so would all programs that tests start.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
