"""Publish and subscribe: the protocol, in process, and over MQTT (the only door to paho)."""
