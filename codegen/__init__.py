"""Tile IR to text: Triton source today."""
