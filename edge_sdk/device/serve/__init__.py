"""Takes requests in process and over HTTP (Open Inference Protocol v2), runs them, and records each one's stages."""
