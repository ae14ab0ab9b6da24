"""argv, settings files, environment, exit codes, printing: the only room that does these."""
