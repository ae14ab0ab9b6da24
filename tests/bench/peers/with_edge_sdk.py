"""This project's builder up to the INT8 graph, through its public door, reading its samples raw and while it runs.

The builder times its stages by the clock it is given. Here that clock counts processor seconds, and the figure is the
sum of the stages which the peers' calls have too: opening the file in a child process, compiling, judging and packing
are left out, as they have none.
"""

import metered

STAGES = ("read", "scan", "fold", "calibrate", "choose", "correct", "place")


class ProcessorClock:
    """A Clock whose ticks are processor time of this process and its children."""

    def __init__(self, usual):
        self._usual = usual

    def __getattr__(self, name):
        return getattr(self._usual, name)

    def tick_ns(self):
        return int(metered.cpu_s() * 1e9)


def quantise(request):
    from pathlib import Path

    import edge_sdk
    from edge_sdk import clock
    from edge_sdk.engines import compilers
    from edge_sdk.records.bundle import Preprocess

    def keep(content):
        Path(request["output"]).write_bytes(content)
        return compilers.ABSENT.report

    def call():
        built = edge_sdk.build_bundle(
            request["model"],
            Path(request["output"]).with_suffix(".edge"),
            calibration=request["raw"],
            evaluation=request["few"],
            preprocess={name: Preprocess(**rule) for name, rule in request["preprocess"].items()},
            method=request["method"],
            max_drop=100.0,
            name="bench",
            force=True,
            check=keep,
            ticks=ProcessorClock(clock.SystemClock()),
        )
        spent = sum(built.seconds.get(stage, 0.0) for stage in STAGES)
        return {"cpu_s": spent, "method": built.method, "stages": built.seconds}

    return call


if __name__ == "__main__":
    metered.main(quantise)
