"""Dense: a linear layer with an activation after the encoder, in NumPy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..arrays import Float, Float32
from ..core.arguments import check_type
from ..errors import InputError

Activation = Literal["identity", "tanh"]


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer with an activation, applied to each row.

    Attributes:
        weight: (O, I), from rows of size I to rows of size O.
        bias: (O,), or None for none.
        activation: "identity" for none, or "tanh".

    Raises:
        InputError: the shapes do not fit, a value is not finite, or the activation is unknown.
    """

    weight: Float[np.ndarray, "O I"]
    bias: Float[np.ndarray, " O"] | None = None
    activation: Activation = "identity"

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            how = f"use {' or '.join(get_args(Activation))}"
            raise InputError(f"unknown activation {self.activation!r}", how=how)
        for name, wanted in (("weight", 2), ("bias", 1)):
            given = getattr(self, name)
            if given is None and name == "bias":
                continue
            array = check_type(given, f"the {name} of a Dense", np.ndarray).astype(np.float32)
            if array.ndim != wanted or not array.size:
                how = "the weight is (outputs, inputs), the bias (outputs,)"
                raise InputError(f"the {name} of a Dense has shape {array.shape}", how=how)
            if not np.isfinite(array).all():
                raise InputError(f"the {name} of a Dense contains NaN or infinity")
            object.__setattr__(self, name, np.ascontiguousarray(array))
        if self.bias is not None and len(self.bias) != self.outputs:
            what = f"a Dense has {self.outputs} outputs and a bias of {len(self.bias)}"
            raise InputError(what, how="use one number for each output")

    @property
    def inputs(self) -> int:
        """I, the size of the rows that it takes."""
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        """O, the size of the rows that it returns."""
        return self.weight.shape[0]

    def __call__(self, rows: Float32[np.ndarray, "rows I"]) -> Float32[np.ndarray, "rows O"]:
        """Apply it to each row."""
        rows = rows @ self.weight.T
        if self.bias is not None:
            rows += self.bias
        return np.tanh(rows) if self.activation == "tanh" else rows


def check_chain(dense: Iterable[Dense], size: int) -> tuple[Dense, ...]:
    """Return layers that follow each other, the first of which takes rows of a size.

    Raises:
        InputError: one is not a `Dense`, or takes rows of another size.
    """
    chain = tuple(check_type(each, "an item of dense", Dense) for each in dense)
    for number, each in enumerate(chain):
        if each.inputs != size:
            what = f"Dense {number} takes rows of {each.inputs}, those before it have {size}"
            raise InputError(what, how="use the layers of one model in their order")
        size = each.outputs
    return chain


def project(
    dense: Iterable[Dense], rows: Float32[np.ndarray, "rows I"]
) -> Float32[np.ndarray, "rows O"]:
    """Apply layers one after another."""
    for each in dense:
        rows = each(rows)
    return rows


def unit(rows: Float32[np.ndarray, "rows D"]) -> Float32[np.ndarray, "rows D"]:
    """Scale every row to length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)
