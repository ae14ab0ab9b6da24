"""Edge deployment SDK for NVIDIA Jetson: the public names, nothing else.

Each name is imported from its room when it is first used, so that ``import edge_sdk`` stays free of numpy.
"""

from edge_sdk import errors, imports

__version__ = "0.1.0"

_PUBLIC = {
    "build_bundle": "edge_sdk.host.builder:build_bundle",
    "open_engine": "edge_sdk.engines.bundled:open_engine",
    "open_frames": "edge_sdk.device.serve.frames:open_frames",
    "watch": "edge_sdk.link.watch:watch",
}

__all__ = ["__version__", "build_bundle", "errors", "open_engine", "open_frames", "watch"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"edge_sdk has no {name!r}; it has {', '.join(__all__)}")
    return imports.object_from_spec(_PUBLIC[name])
