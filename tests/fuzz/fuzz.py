"""Lets atheris look for bytes that make a parser raise, hang or grow: ``python tests/fuzz/fuzz.py TARGET SECONDS``.

What it finds is left in the working folder as ``crash-*``; put it into tests/fuzz/corpus/TARGET once it is mended.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edge_sdk.wire", "edge_sdk.collector.ingest", "edge_sdk.link.reading"]):
    import targets


def main():
    name, seconds = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(targets.seeds(name)):
            Path(folder, f"{number}").write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=1", "-rss_limit_mb=512"]
        atheris.Setup([sys.argv[0], folder, *options], lambda data: targets.TARGETS[name](data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
