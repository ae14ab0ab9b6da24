from edge_sdk import errors as errors
from edge_sdk.device.serve.frames import open_frames as open_frames
from edge_sdk.engines.bundled import open_engine as open_engine
from edge_sdk.host.builder import build_bundle as build_bundle
from edge_sdk.link.watch import watch as watch

__version__: str
