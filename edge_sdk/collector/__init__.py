"""Telemetry to series: ingest, store, receipts (server)."""
