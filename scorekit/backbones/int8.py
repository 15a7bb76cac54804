"""8-bit matrix products for the towers of dual encoders on a CPU: ``--dtype int8``.

A linear layer's weights are rounded once, with a scale for each output; what it is given is rounded
as it comes, with a scale for each row. So a row's result depends on that row alone, whatever
stands beside it in a batch, and nothing has to be calibrated (Dettmers et al., NeurIPS 2022,
arXiv:2208.07339, section 2.1, call it vector-wise). Products and sums are exact integers. The rest
(attention, layer norms, activations, residuals, the first convolution, the heads) stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from scorekit.types import UsageError

LEVELS = 127
ROWS = 400
"""Rows that go through a tower together: what a layer makes of more does not stay in the cache."""
NO_GRADIENT = (
    "--dtype int8 has no gradients, which token attributions, heat maps and rewards take: "
    "leave it out there"
)


def check_machine(device: torch.device) -> None:
    """Raise unless 8-bit products are exact on a device.

    CPUs without 8-bit dot products add in 16 bits, where sums overflow: numbers would depend on
    the machine. So extreme sums are tried.

    Raises
    ------
    UsageError
        If the device is no CPU, or this one's sums, or torch's build, are not fit.
    """
    if device.type != "cpu":
        raise UsageError(f"--dtype int8 is for the CPU, not for {device.type}: add --device cpu")
    # Two products of the highest level, 255, are more than 16 bits hold; of the lowest, 1, never.
    rows = torch.full((3, 256), float(LEVELS))
    rows[1] *= -1
    try:
        with torch.no_grad():
            found = Int8Product(rows, None)(*round_rows(rows))
    except (AttributeError, RuntimeError, NotImplementedError):
        found = torch.zeros(())  # torch without oneDNN, or another release of its operators
    if not torch.equal(found, rows @ rows.T):
        raise UsageError(
            "--dtype int8 needs a CPU with 8-bit dot products (x86-64 with VNNI) and a torch that "
            "uses them through oneDNN; leave it out here"
        )


def round_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows rounded to 255 levels.

    Parameters
    ----------
    x : float32 tensor (m, k)

    Returns
    -------
    levels : uint8 tensor (m, k)
        From 1 to 255; 128 stands for 0.
    step : float32 tensor (m, 1)
        What a level is worth: the row's largest magnitude over 127. NaN and infinity in a row
        come through here, so that its result is not finite either.
    """
    largest = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
    largest = largest.clamp_min_(1e-30)  # a row of zeros
    # Signed first: torch converts to int8 by vectors, to uint8 one number at a time.
    levels = (x * (LEVELS / largest)).round_().to(torch.int8)
    return levels.view(torch.uint8).bitwise_xor_(128), largest / LEVELS


class Int8Product:
    """Weights (n, k) rounded to 8 bits, and what multiplies by them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        weight = weight.detach().float()
        self._steps = weight.abs().amax(dim=1).clamp_min(1e-30) / LEVELS
        levels = (weight / self._steps[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = torch.zeros(()) if bias is None else bias.detach().float()

    def __call__(self, levels: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Float32 (m, n) of rounded rows (m, k)."""
        out = self.multiply(levels)
        return torch.addcmul(self._bias, out, step, out=out)

    def multiply(self, levels: torch.Tensor) -> torch.Tensor:
        """The product alone, as if each row had a step of 1."""
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels,
            1.0,
            128,
            self._packed,
            self._steps,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return out


class Int8RowsLinear(nn.Module):
    """`torch.nn.Linear` by 8-bit products."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.int8_original_dtype = torch.float32  # OpenCLIP's name for what goes in and comes out
        self._product = Int8Product(linear.weight, linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., k) to (..., n)."""
        check_no_gradient(x)
        out = self._product(*round_rows(x.reshape(-1, x.shape[-1])))
        return out.view(*x.shape[:-1], self.out_features)


class Int8SelfAttention(nn.Module):
    """`torch.nn.MultiheadAttention` of a sequence with itself, as OpenCLIP's blocks call it."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.batch_first = attention.batch_first
        self._qkv = Int8Product(attention.in_proj_weight, attention.in_proj_bias)
        self._out = Int8RowsLinear(attention.out_proj)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Attention (n, t, d), or (t, n, d) where the sequence comes first; no weights."""
        check_no_gradient(query)
        x = query if self.batch_first else query.transpose(0, 1)
        n, t, d = x.shape
        made = self._qkv(*round_rows(x.reshape(-1, d)))
        q, k, v = made.view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.ndim == 3:  # (n * heads, t, t)
            attn_mask = attn_mask.view(n, self.heads, t, t)
        z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask)
        out = self._out(z.transpose(1, 2).reshape(n, t, d))
        return (out if self.batch_first else out.transpose(0, 1)), None


def check_no_gradient(x: torch.Tensor) -> None:
    """Raise a UsageError where a gradient would be lost."""
    if x.requires_grad and torch.is_grad_enabled():
        raise UsageError(NO_GRADIENT)


def round_layers(model: nn.Module) -> None:
    """Put 8-bit layers into the stacks of a model, in place.

    A stack is a list of modules of one class: the blocks of a tower. What stands outside of
    stacks (embeddings, the first convolution, heads) stays as it is, and so do attention between
    two sequences and CoCa's caption head.

    Raises
    ------
    UsageError
        If there is no such layer.
    """
    for stack in list(stacks(model)):
        for parent in list(stack.modules()):
            if isinstance(parent, nn.MultiheadAttention):
                continue  # whoever calls it reads its parts
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.MultiheadAttention) and of_itself(parent, child):
                    setattr(parent, name, Int8SelfAttention(child))
                elif type(child) is nn.Linear:
                    setattr(parent, name, Int8RowsLinear(child))
    if not any(isinstance(module, Int8RowsLinear) for module in model.modules()):
        raise UsageError(
            f"{type(model).__name__} has no stack of blocks with linear layers: --dtype int8 "
            "would change nothing; leave it out"
        )


def most_rows(model: nn.Module, forward: Callable[[], object]) -> int:
    """The most rows that an 8-bit layer of a model is given in a forward pass; 0 for none."""
    rows = [0]

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(inputs[0].numel() // inputs[0].shape[-1])

    layers = [module for module in model.modules() if isinstance(module, Int8RowsLinear)]
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return max(rows)


def stacks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost lists of modules that are all of one class, a caption head's left out."""
    for child in model.children():
        if hasattr(child, "cross_attn"):
            continue
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and len({*map(type, child)}) == 1:
            yield child
        else:
            yield from stacks(child)


def of_itself(parent: nn.Module, attention: nn.MultiheadAttention) -> bool:
    """Whether a block's attention is of a sequence with itself, as far as its class tells."""
    return type(parent).__name__ == "ResidualAttentionBlock" and not hasattr(parent, "ln_1_kv")
