"""What every test stands on."""

import signal


def pytest_configure():
    # A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and then interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
