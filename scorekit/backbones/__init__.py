"""Backbones: the only code that imports torch, one file a family.

This package itself, `spec` and `handle` import no torch: a run whose features are all in the
cache never loads a model.
"""
