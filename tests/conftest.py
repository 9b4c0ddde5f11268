"""Hypothesis, for every test: no deadline. A small board or a busy machine is slow, not wrong."""

from hypothesis import settings

settings.register_profile("tinyface", deadline=None)
settings.load_profile("tinyface")
