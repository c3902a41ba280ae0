"""How well an explanation fits."""
