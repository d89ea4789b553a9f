"""Fuzz targets: each module has one `one_input`, which states one invariant. See README.md."""
