"""Bundle and input to answers and telemetry: the on-device runtime (Jetson)."""
