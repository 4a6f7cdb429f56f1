"""The linear layers of the encoder."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import linear

PermuteRows = Callable[[Shaped[Tensor, "out ..."]], Shaped[Tensor, "out ..."]]


def _unchanged(rows: Tensor) -> Tensor:
    return rows


class Projection(nn.Linear):
    """A linear layer whose output is split into parts.

    Args:
        in_features: size of the input.
        parts: size of each part of the output; the weight has their sum.
        bias: whether there is one.
        permute_rows: reorders the rows of weight and bias before the product; None keeps them.
    """

    def __init__(
        self,
        in_features: int,
        parts: Sequence[int],
        bias: bool,
        permute_rows: PermuteRows | None = None,
    ) -> None:
        super().__init__(in_features, sum(parts), bias=bias)
        self.parts = list(parts)
        self.permute_rows = permute_rows or _unchanged

    def forward(self, x: Float[Tensor, "T in"]) -> tuple[Float[Tensor, "T _"], ...]:  # type: ignore[override]
        """Compute every part, (T, its size)."""
        bias = None if self.bias is None else self.permute_rows(self.bias)
        y = linear(x, self.permute_rows(self.weight), bias)
        # The backward pass of a split copies, also where there is one part.
        return y.split(self.parts, dim=-1) if len(self.parts) > 1 else (y,)
