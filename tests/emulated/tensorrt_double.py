"""A double of TensorRT for tests: it runs the same ONNX with ONNX Runtime on the emulated driver's "device" memory.

Not TensorRT, and nothing it gives says anything about a GPU. It offers the part of TensorRT 10's Python API that the
product calls, and `test_double_contract.py` holds that part to the real classes. Work is submitted to the stream, so
it is done when the product synchronises and not before; a graph keeps the addresses that it was captured with.
"""

import ctypes
import enum
import itertools
import json
import math
import time
import weakref
from pathlib import Path

import emulated
import numpy as np
import onnxruntime as ort

__version__ = "10.3.0.26"
_MAGIC = b"DOUBLE"
_NP = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int8)": "INT8", "tensor(int32)": "INT32",
       "tensor(int64)": "INT64", "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8"}  # fmt: skip


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, INT64 = range(7)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW32 = 0, 5


class DeviceType(enum.Enum):
    GPU, DLA = range(2)


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class BuilderFlag(enum.IntEnum):
    FP16, INT8, GPU_FALLBACK, SPARSE_WEIGHTS = 0, 1, 3, 9


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        pass

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self):
        pass


class Switches:
    """What a test orders of the double itself."""

    refused_enqueues = 0
    last_config = None


class _Memory:
    """Device memory that TensorRT takes for itself, so that an engine that is not dropped is a leak to be seen."""

    def __init__(self, size_bytes):
        self.address = ctypes.c_size_t()
        code = emulated.driver().cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(size_bytes))
        if code:
            raise MemoryError(f"[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (code {code})")

    def __del__(self):
        if self.address.value:
            emulated.driver().cuMemFree_v2(self.address)


class Runtime:
    def __init__(self, logger):
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        plan = bytes(serialized_engine)
        if plan.startswith(b"SEGV"):
            ctypes.string_at(0)
        if plan.startswith(b"HANG"):
            time.sleep(600)
        if plan.startswith(b"OOM"):
            hoard = [np.empty(1 << 28, np.uint8) for _ in itertools.count()]
            return len(hoard)
        if not plan.startswith(_MAGIC):
            self.logger.log(
                ILogger.Severity.ERROR, "Serialization assertion stdArchiveReader.cpp failed. Magic tag does not match"
            )
            return None
        try:
            return ICudaEngine(plan, self.logger)
        except MemoryError as error:
            self.logger.log(ILogger.Severity.ERROR, str(error))
            return None


class ICudaEngine:
    def __init__(self, plan, logger):
        head, _, model = plan[len(_MAGIC) :].partition(b"\n")
        self._meta = json.loads(head)
        self._logger = logger
        self._session = session(model)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = {o.name: o for o in self._session.get_outputs()}
        self._weights = _Memory(max(len(model), 1))

    @property
    def num_io_tensors(self):
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self):
        return 1

    def get_tensor_name(self, index):
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[_NP[self._tensor(name).type]]

    def get_tensor_shape(self, name):
        return axes(self._tensor(name))

    def get_tensor_location(self, name):
        return TensorLocation[self._meta.get("locations", {}).get(name, "DEVICE")]

    def get_tensor_format(self, name):
        return TensorFormat[self._meta.get("formats", {}).get(name, "LINEAR")]

    def get_tensor_profile_shape(self, name, profile_index):
        fixed = axes(self._inputs[name])
        return [tuple(shape) for shape in self._meta["profile"].get(name, [fixed] * 3)]

    def create_execution_context(self):
        try:
            return IExecutionContext(self)
        except MemoryError as error:
            self._logger.log(ILogger.Severity.ERROR, str(error))
            return None

    def _tensor(self, name):
        return self._inputs.get(name) or self._outputs[name]


class IExecutionContext:
    def __init__(self, engine):
        self.engine = engine
        self._workspace = _Memory(4096)
        self._addresses = {}
        self._shapes = {name: axes(i) for name, i in engine._inputs.items() if -1 not in axes(i)}
        self._generation = 0

    def set_input_shape(self, name, shape):
        if name not in self.engine._inputs or len(shape) != len(axes(self.engine._inputs[name])):
            return False
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if not all(a <= got <= b for a, got, b in zip(low, shape, high, strict=True)):
            self._log(f"IExecutionContext::setInputShape: {name} is outside its profile")
            return False
        if self._shapes.get(name) != tuple(shape):
            self._generation += 1  # as TensorRT, which may move its workspace: graphs of the old shape are void
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, memory):
        if name not in self.engine._inputs and name not in self.engine._outputs:
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_shape(self, name):
        if name in self.engine._inputs:
            return self._shapes.get(name, axes(self.engine._inputs[name]))
        return self._output_shape(self.engine._outputs[name])

    def infer_shapes(self):
        return [name for name in self.engine._inputs if name not in self._shapes]

    def execute_async_v3(self, stream_handle):
        if Switches.refused_enqueues > 0:
            Switches.refused_enqueues -= 1
            self._log("IExecutionContext::enqueueV3: Error Code 1: Cuda Driver (ordered by the test)")
            return False
        if self.infer_shapes() or set(self._addresses) != {*self.engine._inputs, *self.engine._outputs}:
            self._log("IExecutionContext::enqueueV3: a shape or an address was not set")
            return False
        return _submit(self._work(), stream_handle) == 0

    def _work(self):
        """Fixes addresses, shapes and workspace as they are now, as kernels in a stream or graph do."""
        addresses, shapes, generation = dict(self._addresses), dict(self._shapes), self._generation
        outputs = {name: self._output_shape(o) for name, o in self.engine._outputs.items()}
        alive = weakref.ref(self)

        def work():
            context = alive()
            if context is None or generation != context._generation:
                emulated.driver().emu_device_fault(emulated.ILLEGAL_ADDRESS)
            else:
                context._compute(addresses, shapes, outputs)

        return work

    def _compute(self, addresses, shapes, outputs):
        types = {name: dtype(self.engine._tensor(name)) for name in addresses}
        sizes = {name: types[name].itemsize * math.prod(shape) for name, shape in {**shapes, **outputs}.items()}
        if not all(emulated.driver().emu_is_device_range(addresses[name], size) for name, size in sizes.items()):
            emulated.driver().emu_device_fault(emulated.ILLEGAL_ADDRESS)
            return
        raw = {name: ctypes.string_at(addresses[name], sizes[name]) for name in shapes}
        feeds = {name: np.frombuffer(raw[name], types[name]).reshape(shape) for name, shape in shapes.items()}
        for name, array in zip(outputs, self.engine._session.run(list(outputs), feeds), strict=True):
            ctypes.memmove(addresses[name], np.ascontiguousarray(array).tobytes(), min(array.nbytes, sizes[name]))

    def _output_shape(self, output):
        """Follows a free axis by the name that it shares with an input, as shape inference does."""
        sizes = {}
        for name, i in self.engine._inputs.items():
            sizes |= dict(zip(i.shape, self._shapes.get(name, axes(i)), strict=True))
        return tuple(axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in output.shape)

    def _log(self, text):
        self.engine._logger.log(ILogger.Severity.ERROR, text)


class ITensor:
    def __init__(self, name, shape):
        self.name, self.shape = name, shape


class INetworkDefinition:
    def __init__(self, flags):
        self._flags, self._model, self._inputs = flags, b"", []

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]


class ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text

    def node_name(self):
        return ""


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse_from_file(self, model):
        return self.parse(Path(model).read_bytes())

    def parse(self, model):
        try:
            made = session(model)
        except Exception as error:
            self._errors.append(ParserError(str(error)))
            return False
        self._network._model = bytes(model)
        self._network._inputs = [ITensor(i.name, axes(i)) for i in made.get_inputs()]
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return self._content


class IBuilderConfig:
    def __init__(self):
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor = None
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self._profiles, self._flags, self._pools, self._cache = [], set(), {}, None

    def set_flag(self, flag):
        self._flags.add(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._content and not cache._content.startswith(b"|timed"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        Switches.last_config = config
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Build", None, 2)
            monitor.step_complete("Build", 0)
            monitor.step_complete("Build", 1)
            monitor.phase_finish("Build")
        if config._cache is not None:
            config._cache._content += b"|timed"
        return plan_from_onnx(network._model, config._profiles[0]._shapes if config._profiles else {})


def plan_from_onnx(model, profile=None, **meta):
    """Gives a plan of the double: its head and the ONNX that it runs."""
    return _MAGIC + json.dumps({"profile": profile or {}, **meta}).encode() + b"\n" + model


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(bytes(model), options, providers=["CPUExecutionProvider"])


def axes(argument):
    return tuple(axis if isinstance(axis, int) else -1 for axis in argument.shape)


def dtype(argument):
    return np.dtype({"FLOAT": "float32", "HALF": "float16"}.get(_NP[argument.type], _NP[argument.type].lower()))


# Work waits in the stream under a number. What a graph captured may be launched any number of times, so it stays.
_numbers = itertools.count(1)
_waiting: dict = {}


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _run(number):
    work, is_captured = _waiting[number]
    if not is_captured:
        del _waiting[number]
    work()


def _submit(work, stream_handle):
    status = ctypes.c_int()
    stream = ctypes.c_void_p(int(stream_handle))
    emulated.driver().cuStreamIsCapturing(stream, ctypes.byref(status))
    number = next(_numbers)
    _waiting[number] = (work, status.value == 1)
    return emulated.driver().cuLaunchHostFunc(stream, _run, ctypes.c_void_p(number))
