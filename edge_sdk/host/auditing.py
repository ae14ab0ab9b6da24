"""A quantised model of any tool to its audit: opened as every stranger's file is, then held against the rules."""

import tempfile
from pathlib import Path

from edge_sdk.host.convert import source
from edge_sdk.host.convert.limits import Limits
from edge_sdk.host.graph import audit
from edge_sdk.records.audit import Audit


def audit_source(path: str | Path, *, limits: Limits | None = None) -> Audit:
    """Gives every rule of TensorRT that a quantised ONNX file breaks, with node and remedy.

    The file is opened in a child process with limits and audited as it is: neither raised nor cleaned.

    Args:
        path: ONNX file of any quantiser; weights may lie beside it.
        limits: what opening it may cost; None takes the defaults.

    Raises:
        ModelError: it is no sound ONNX file, or has no quantised operator.
    """
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        converted = source.onnx_from_source(path, workdir=Path(folder), limits=limits, keep_quantized=True)
        return audit.audit_file(converted.path)
