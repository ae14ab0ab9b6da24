"""What the collector knows, in the forms that other tools read."""
