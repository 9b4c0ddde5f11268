"""Save a network that was trained in PyTorch, for ``tinyface import face.safetensors``."""

import torch
from safetensors.torch import save_file


def save_for_tinyface(model: torch.nn.Module, path: str) -> None:
    """Write the weights of ``model`` to ``path``, a safetensors file.

    Tensors are detached, contiguous, float32 and on the CPU; two names for one tensor get a copy
    each. Step counters of batch norm are no weights and are left out.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous().clone()
        for name, tensor in model.eval().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(tensors, path)
