"""From a graph to a flat list of C steps: layout, kernels, packed weights, the arena.

:func:`make_plan` lowers every node of an optimised graph (``lower.py``, one small function per
operator), packs its weights into the order in which the micro-kernel reads them (``pack.py``),
chooses block sizes (``tiling.py``) and places all buffers in one arena (``arena.py``).
"""

from tinyface.plan.model import Buffer, Isa, Plan, Step, View
from tinyface.plan.pack import Packer
from tinyface.plan.planner import make_plan

__all__ = ["Buffer", "Isa", "Packer", "Plan", "Step", "View", "make_plan"]
