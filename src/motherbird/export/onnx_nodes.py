"""Writing an ONNX graph node by node: values are called by their names, which a viewer shows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Shape = tuple[int | str, ...]


class Graph:
    """Nodes in the order of their work, and the constant tensors that they use.

    A node and its first output have one name. Elementary operations have a method where they are
    used more than twice; ``node`` writes any other.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node with one output, and return the output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, name: str, value: NDArray[np.float32]) -> str:
        """Keep a float32 tensor under a name."""
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, value: int | list[int]) -> str:
        """An int64 constant, a scalar or a list, kept once."""
        return self._constant(np.array(value, np.int64), f"int {value}")

    def number(self, value: float) -> str:
        """A float32 scalar, kept once."""
        return self._constant(np.array(value, np.float32), f"float {value}")

    def _constant(self, value: NDArray[Any], name: str) -> str:
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(value, name)
        return name

    def add(self, a: str, b: str, name: str) -> str:
        """The sum."""
        return self.node("Add", a, b, name=name)

    def multiply(self, a: str, b: str, name: str) -> str:
        """The product, element by element."""
        return self.node("Mul", a, b, name=name)

    def matmul(self, a: str, b: str, name: str) -> str:
        """The product of matrices, over all leading axes."""
        return self.node("MatMul", a, b, name=name)

    def gather(self, x: str, index: str, axis: int, name: str) -> str:
        """Rows of an axis by their numbers; the axis is replaced by the axes of ``index``."""
        return self.node("Gather", x, index, name=name, axis=axis)

    def reshape(self, x: str, shape: list[int], name: str) -> str:
        """0 leaves an axis as it is, -1 takes what remains."""
        return self.node("Reshape", x, self.ints(shape), name=name)

    def transpose(self, x: str, order: list[int], name: str) -> str:
        """Axes in another order."""
        return self.node("Transpose", x, name=name, perm=order)

    def unsqueeze(self, x: str, axes: list[int], name: str) -> str:
        """New axes of size 1."""
        return self.node("Unsqueeze", x, self.ints(axes), name=name)

    def first(self, x: str, count: str, axis: int, name: str) -> str:
        """The leading ``count`` (a list of one) entries of an axis."""
        return self.node("Slice", x, self.ints([0]), count, self.ints([axis]), name=name)

    def split(self, x: str, parts: int, size: int, axis: int, names: list[str]) -> list[str]:
        """Equal parts of an axis, each with its name."""
        sizes = self.ints([size] * parts)
        self.nodes.append(
            helper.make_node("Split", [x, sizes], names, name=f"{x}.parts", axis=axis)
        )
        return names

    def rename(self, old: str, new: str) -> None:
        """Give a value the name of an output; its node keeps its own."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = new if name == old else name

    def finish(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> GraphProto:
        """The graph with all nodes so far; its tensors come by `move_tensors`."""
        return helper.make_graph(self.nodes, name, inputs, outputs)

    def move_tensors(self, graph: GraphProto) -> None:
        """Hand the tensors over one by one: no moment has two copies of a large model."""
        for name in list(self.tensors):
            graph.initializer.append(self.tensors.pop(name))


def value(name: str, kind: int, shape: Shape | None) -> ValueInfoProto:
    """An input or output: its name, element type, and shape (names stand for any size)."""
    return helper.make_tensor_value_info(name, kind, shape)
