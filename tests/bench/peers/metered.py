"""Runs one quantiser's call and says what it cost; the only thing that the scripts beside it share.

Each `with_*.py` runs in an environment of its own: `python with_NAME.py REQUEST.json`. Imports and reading the
samples are not counted. Every session takes the same number of threads, whatever the tool would choose.
"""

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def main(quantise):
    """Calls `quantise(request, samples)` and prints {"cpu_s", "wall_s", "peak_bytes", ...}; all else goes to stderr."""
    request = json.loads(Path(sys.argv[1]).read_text())
    answer = os.dup(1)
    os.dup2(2, 1)  # the tools print; stdout is for the answer
    _limit_threads(request["threads"])
    call = quantise(request)
    before_s, started_s = cpu_s(), time.perf_counter()
    more = call()
    spent = {"cpu_s": cpu_s() - before_s, "wall_s": time.perf_counter() - started_s, "peak_bytes": _peak_bytes()}
    os.write(answer, json.dumps({**spent, "process_cpu_s": cpu_s(), **(more or {})}).encode())
    sys.stdout.flush()
    os._exit(0)  # some tools end with a crash of their own


def samples(request):
    """The prepared arrays by input name, the first `count` of them."""
    import numpy as np

    with np.load(request["prepared"]) as arrays:
        return {name: arrays[name][: request["count"]] for name in arrays.files}


def rows(arrays):
    """One feed of batch 1 after the other."""
    count = len(next(iter(arrays.values())))
    for index in range(count):
        yield {name: values[index : index + 1] for name, values in arrays.items()}


def _limit_threads(threads):
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
    import onnxruntime

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path_or_bytes, sess_options=None, *args, **kwargs):
            settings = sess_options or onnxruntime.SessionOptions()
            settings.intra_op_num_threads = threads
            settings.inter_op_num_threads = 1
            super().__init__(path_or_bytes, settings, *args, **kwargs)

    onnxruntime.InferenceSession = Session


def cpu_s():
    """Processor seconds of this process and of the children that ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak_bytes():
    """The high-water mark of this program: ru_maxrss would begin with what the parent had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
