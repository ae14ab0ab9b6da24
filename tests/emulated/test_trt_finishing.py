"""A daemon that is given a signed bundle without an engine builds one with the board's own compiler, beside it."""

import harness  # noqa: F401 - skips where there is no rig
import numpy as np

from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import bundles


def test_it_is_built_kept_and_found_again(tmp_path, write_bundle, tiny_onnx):
    repository = tmp_path / "models"
    repository.mkdir()
    write_bundle(repository / "a.edge", tiny_onnx, name="a")
    (repository / "a.edge" / bundles.SIGNATURE).write_bytes(b"a signature over the manifest")
    before = {file.name: file.read_bytes() for file in (repository / "a.edge").iterdir()}
    settings = DaemonSettings(
        backend="tensorrt", model_repository=str(repository), state_folder=str(tmp_path / "state"), threads=1
    )
    one = Deployment(settings, clocks=FakeClock())
    assert one.models.find("a") is None
    one.finish()
    x = {"x": np.array([[1, 2, 3]], np.float32)}
    try:
        assert [news.kind for news in one.take_news()] == ["engine_building", "engine_built"]
        built = one.models.infer("a", x)["y"]
    finally:
        one.models.close()
    assert {file.name: file.read_bytes() for file in (repository / "a.edge").iterdir()} == before
    again = Deployment(settings, clocks=FakeClock())
    try:
        np.testing.assert_array_equal(again.models.infer("a", x)["y"], built)
        assert again.take_news() == []
    finally:
        again.models.close()
