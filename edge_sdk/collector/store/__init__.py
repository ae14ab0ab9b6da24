"""Where Samples are kept."""
