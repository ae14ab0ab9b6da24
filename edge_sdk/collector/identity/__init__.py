"""Who is who in the fleet: a small certificate authority."""
