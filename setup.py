"""The two compiled parts: the term codec (a CPython extension) and the pores' C core (cffi)."""

from glob import glob

from setuptools import Extension, setup

setup(
    cffi_modules=["csrc/ffi/build_pore.py:ffi"],
    ext_modules=[
        Extension(
            "node._etf",
            sources=sorted(glob("csrc/etf/*.c")),
            depends=[*sorted(glob("csrc/etf/*.h")), "csrc/include/etf_tags.h"],
            include_dirs=["csrc/etf"],
            extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"],
        )
    ],
)
