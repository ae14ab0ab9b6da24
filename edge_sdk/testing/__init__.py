"""Shipped for your tests: fakes that behave, and the checks that every back end and every link must pass."""
