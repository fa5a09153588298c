"""Contract checks for attentions and tasks of third parties.

from attngraft.testing import check_attention, check_task

check_attention("my-attention")
check_task(MyTask, outputs=("a", "b"), targets=my_targets)
"""

from __future__ import annotations

from .check_attention import check_attention
from .check_task import check_task

__all__ = ["check_attention", "check_task"]
