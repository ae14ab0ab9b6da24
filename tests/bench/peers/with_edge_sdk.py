"""This project's builder up to the INT8 graph, through its public door, reading its samples raw and while it runs.

The builder times its stages by the clock it is given. Here that clock counts processor seconds, and the figure is the
sum of the stages which the peers' calls have too: opening and cleaning the model, calibrating, choosing the ranges,
placing Q/DQ. What the child that opens the model takes to start and import is left out, as the peers' imports are.
So is what the peers' calls have none of: looking at the evaluation data, the coverage curve, compiling, judging and
packing; and corrections of the weights for a method by name, which is asked for by whoever wants just that method.
"""

import subprocess
import sys

import metered

STAGES = ("convert", "read", "fold", "calibrate", "choose", "place")
IMPORTS = "import edge_sdk.host.convert.child, edge_sdk.host.convert.onnx_model"


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

    before_s = metered.cpu_s()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    imports_s = metered.cpu_s() - before_s
    stages = (*STAGES, "correct") if request["method"] == "auto" else STAGES

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
        spent = sum(built.seconds.get(stage, 0.0) for stage in stages) - imports_s
        return {"cpu_s": spent, "method": built.method, "stages": built.seconds}

    return call


if __name__ == "__main__":
    metered.main(quantise)
