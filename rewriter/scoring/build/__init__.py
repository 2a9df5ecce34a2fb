"""Tensors become a transformer."""
