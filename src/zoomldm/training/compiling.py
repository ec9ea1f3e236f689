"""torch.compile where it works; eager mode where it does not."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

_log = logging.getLogger(__name__)


def compile_modules(modules: Sequence[nn.Module]) -> None:
    """Compile modules at their next call, for the shapes they get then."""
    for module in modules:
        module.compile(dynamic=False)


def give_up(modules: Sequence[nn.Module], error: Exception) -> None:
    """Undo compiling, and log the reason in one line."""
    for module in modules:
        uncompiled: Any = module
        uncompiled._compiled_call_impl = None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = lines[0][:200] if lines else type(error).__name__
    _log.warning("torch.compile does not work here (%s); training goes on without it", why)
