"""Artefacts and the manifest to a bundle, and the report that a person reads."""
