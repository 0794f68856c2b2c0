"""The one thing pyproject.toml cannot say yet: that the C core is compiled when the package is installed."""

from setuptools import setup

setup(cffi_modules=["src/smidgen/core_build.py:builder"])
