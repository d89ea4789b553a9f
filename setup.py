"""Compiles the data path in place: `python setup.py build_ext --inplace`.

Each module with a .pxd beside it, which holds its C types; the .py runs interpreted too. Nothing here is packaged.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent
#: No symbols for a debugger, and little optimization: more takes longer, and gains nothing that can be measured. The
#: error is that of a cpdef method used as a callback: it would forget whose method it is.
FLAGS = ["-g0", "-O1", "-Werror=incompatible-pointer-types"]
PROCESSORS = os.cpu_count() or 1

setup(
    packages=[],
    options={"build_ext": {"parallel": PROCESSORS}},
    ext_modules=cythonize(
        [
            Extension(".".join(path.with_suffix("").parts), [str(path.with_suffix(".py"))], extra_compile_args=FLAGS)
            for path in sorted(found.relative_to(HERE) for found in (HERE / "proxyworker").rglob("*.pxd"))
        ],
        build_dir="build",
        nthreads=PROCESSORS,
        quiet=True,
        # Annotations are for mypy: what C is told stands in the .pxd alone.
        compiler_directives={"language_level": 3, "annotation_typing": False},
    ),
)
