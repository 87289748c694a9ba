"""Fused blocks need Triton's interpreter, see ``tests/ops/triton/test_interpreter.py``."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_fused.py"]
