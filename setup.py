"""Compiles the data path's hot loops in place: `python setup.py build_ext --inplace`.

Each is one .py file that also runs interpreted; its C types stand beside it in a .pxd. Nothing here is packaged.
"""

from Cython.Build import cythonize
from setuptools import setup

COMPILED = ["proxyworker/wire/postgres/rows.py", "proxyworker/wire/postgres/scan.py"]

setup(
    packages=[],
    ext_modules=cythonize(
        COMPILED, build_dir="build", compiler_directives={"language_level": 3, "annotation_typing": False}
    ),
)
