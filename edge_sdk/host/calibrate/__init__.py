"""Calibration data to activation ranges: reads DATA in all its forms, in batches, and keeps a histogram per tensor."""
