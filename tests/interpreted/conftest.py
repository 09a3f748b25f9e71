"""Triton reads TRITON_INTERPRET when it is imported, so these tests have a process of their own.

``tests/test_interpreted.py`` starts it; by hand it is ``TRITON_INTERPRET=1 pytest tests/interpreted``.
"""

from __future__ import annotations

from margformer_fast.kernels.toolchain import is_interpreting

collect_ignore_glob = [] if is_interpreting() else ["*"]
