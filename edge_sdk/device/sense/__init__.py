"""Reads the board: procfs and sysfs below a root folder that is handed in."""
