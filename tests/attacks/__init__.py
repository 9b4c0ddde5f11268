"""Makers of hostile files: each function returns bytes that a reader must refuse."""
