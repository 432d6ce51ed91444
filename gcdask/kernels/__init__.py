"""Compiled and vectorised numerics: NumPy arrays in, NumPy arrays out, no dask and no files."""
