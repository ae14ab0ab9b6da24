"""What travels between the rooms and over the wire: frozen msgspec structs, nothing that does anything."""
