"""What tests of conversion from every framework ask of it."""

import re

import host_graphs as hg
import pytest

from edge_sdk import errors
from edge_sdk.host.convert.source import onnx_from_source


def refused(source, work, *words, kind=errors.ModelError, **options):
    """Asserts that a source is refused in these words, and that nothing was written."""
    with pytest.raises(kind) as caught:
        onnx_from_source(source, workdir=work, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == []
