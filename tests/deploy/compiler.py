"""What makes a test need a C++ compiler."""

import shutil

import pytest

compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="no C++ compiler")
