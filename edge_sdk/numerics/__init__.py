"""Pure maths on numbers and arrays: no clock, file, socket or global random."""
