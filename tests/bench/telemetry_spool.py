"""The spool: what it writes to flash, and how fast a day of it drains."""


def measure():
    yield from ()
