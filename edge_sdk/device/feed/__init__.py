"""Frames from cameras, videos and folders through an engine to wherever results go."""
