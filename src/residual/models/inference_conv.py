"""Convolution, addition and ReLU as one operation of oneDNN, for inference on a CPU.

The plain path writes the convolution's output, reads it to add the shortcut and again for ReLU, and brings
the weights into oneDNN's order in every call.
"""

from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

mkldnn = torch.ops.mkldnn  # oneDNN's former name


class InferenceConv(nn.Conv2d):
    """A convolution that can be called with what follows it: `conv(x, shortcut, relu=True)`.

    It computes relu(conv(x) + shortcut), by oneDNN on a CPU in float32 without gradients, else step by step.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the weights of a convolution."""
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self._packed: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """Map [N, C, H, W] to relu(conv(x) + shortcut), or without what is left out."""
        if self._fusible(x):
            return self._fused(x, shortcut, relu)
        y = super().forward(x)
        y = y if shortcut is None else y + shortcut
        return y.relu() if relu else y

    def _fusible(self, x: Tensor) -> bool:
        needs_gradients = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        return (
            x.device.type == self.weight.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.dim() == 4
            and not needs_gradients
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()  # nor exporting
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and not isinstance(self.padding, str)
            and self.padding_mode == "zeros"
            and _available()
        )

    def _fused(self, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        function, last = mkldnn._convolution_pointwise, "relu" if relu else "none"
        arguments = (self._ordered_weight(x), self.bias, *self._geometry)
        if shortcut is None:
            return function(x, *arguments, last, [], "")  # type: ignore[no-any-return]
        y: Tensor = function.binary(x, shortcut, *arguments, "add", 1.0, last if relu else None, [], "")
        return y

    @property
    def _geometry(self) -> tuple[Any, ...]:
        return self.padding, self.stride, self.dilation, self.groups

    def _ordered_weight(self, x: Tensor) -> Tensor:
        """Return the weight in the order that oneDNN prefers for such images, made once."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._packed is None or self._packed[0] != version:
            ordered = mkldnn._reorder_convolution_weight(self.weight, *self._geometry, list(x.shape))
            self._packed = version, ordered
        return self._packed[1]

    def _apply(self, *arguments: Any, **options: Any) -> Self:
        self._packed = None  # the weight moves or changes its type
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # it can be neither copied nor pickled


@cache
def _available() -> bool:
    """Try the operations once: they are not part of torch's public interface."""
    x, weight = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    geometry = ((0, 0), (1, 1), (1, 1), 1)
    try:
        ordered = mkldnn._reorder_convolution_weight(weight, *geometry, [1, 1, 1, 1])
        mkldnn._convolution_pointwise(x, ordered, None, *geometry, "none", [], "")
        mkldnn._convolution_pointwise.binary(x, x, ordered, None, *geometry, "add", 1.0, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
