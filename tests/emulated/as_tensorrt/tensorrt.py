"""Lets `import tensorrt` find the double of the emulated suite; this folder is on the path of nothing else."""

import sys

import tensorrt_double

sys.modules[__name__] = tensorrt_double
