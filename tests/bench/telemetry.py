"""What telemetry costs and loses: the spool's rows, the wire's and the link's. A part is a generator of rows."""

import sys

import telemetry_link
import telemetry_spool
from rows import main

PARTS = (
    telemetry_link.measure,
    telemetry_spool.measure,
)


def measure():
    for part in PARTS:
        yield from part()


if __name__ == "__main__":
    sys.exit(main("telemetry", measure))
