"""A serialised model that is too large for one message: a file, and the weights in another beside it."""

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TypeAlias

WEIGHTS_SUFFIX = ".data"
"""Added to a model's file name, gives that of its weights."""

_CHUNK_BYTES = 2**20


class Folder:
    """A temporary folder that goes with its last holder."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edge-sdk-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class ModelFile:
    """Two files in a temporary folder, which goes when the last model in it is dropped.

    Attributes:
        path: of the model, small.
        weights: of the file that it reads its weights from.
    """

    def __init__(self, folder: Folder, path: Path, weights: Path) -> None:
        self._folder = folder
        self.path = path
        self.weights = weights

    @property
    def size_bytes(self) -> int:
        """Bytes of both."""
        return self.path.stat().st_size + self.weights.stat().st_size

    def sha256(self) -> str:
        """Gives the SHA-256 of both, one after the other."""
        found = hashlib.sha256()
        for file in (self.path, self.weights):
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    found.update(chunk)
        return found.hexdigest()

    def extended(self, more: bytes) -> "ModelFile":
        """Gives the model with a further message at its end, which protobuf reads as one; the weights are shared."""
        with tempfile.NamedTemporaryFile(dir=self._folder.path, suffix=".onnx", delete=False) as file:
            with self.path.open("rb") as stream:
                shutil.copyfileobj(stream, file)
            file.write(more)
        return ModelFile(self._folder, Path(file.name), self.weights)


Serialized: TypeAlias = bytes | ModelFile
"""A model as sessions and bundles take it."""


def size_bytes(model: Serialized) -> int:
    """Gives how many bytes a model has, its weights included."""
    return model.size_bytes if isinstance(model, ModelFile) else len(model)


def sha256(model: Serialized) -> str:
    """Gives the SHA-256 of a model, its weights included."""
    return model.sha256() if isinstance(model, ModelFile) else hashlib.sha256(model).hexdigest()
