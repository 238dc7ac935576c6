"""The parts of the tiled engine, one concept a file."""
