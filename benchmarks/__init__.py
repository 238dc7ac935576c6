"""Measurements; each says what it ran on."""
