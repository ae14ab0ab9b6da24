"""ONNX Runtime's wheels report to their maker unless told not to before they are loaded; here they are told."""

import os
import subprocess
import sys

import host_graphs as hg


def test_running_a_model_leaves_no_identifier_and_no_queue_of_events(tmp_path):
    model, home = hg.save(hg.residual(), tmp_path / "m.onnx"), tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    unset = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY"}  # each would silence it by itself
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    code = f"from edge_sdk.engines import ort; ort.runner_from_model({str(model)!r})"
    subprocess.run([sys.executable, "-c", code], env={**environment, **places}, check=True, timeout=60)
    assert hg.files_below(home) == []
