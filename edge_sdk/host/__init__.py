"""Model to signed bundle: convert, calibrate, place Q/DQ, gate on measured accuracy, pack (workstation)."""
