"""Bundles on this device: verified byte by byte, then loaded."""
