"""Bounded store-and-forward: what was measured is kept until the collector has said that it is stored."""
