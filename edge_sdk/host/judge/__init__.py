"""The accuracy gate: both models on data that calibration never saw, and the verdict."""
