"""Compile and run a model: the protocol, the Engine that keeps its promise, the table of back ends."""
