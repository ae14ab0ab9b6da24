"""The collector over HTTP: questions as JSON, described by OpenAPI; read-only."""
