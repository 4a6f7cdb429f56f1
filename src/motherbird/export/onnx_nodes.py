"""Build an ONNX graph node by node. Values are strings, their names in the graph."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Shape = tuple[int | str, ...]


class Graph:
    """Nodes in the order of execution, and the constant tensors that they use.

    A node has the name of its first output. Operations that are used often have a method; `node`
    adds any other.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: dict[str, TensorProto] = {}

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, name: str, value: NDArray[np.float32]) -> str:
        """Add a float32 tensor."""
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, value: int | list[int]) -> str:
        """Return an int64 constant, a scalar or a list; equal constants are stored once."""
        return self._constant(np.array(value, np.int64), f"int {value}")

    def number(self, value: float) -> str:
        """Return a float32 scalar; equal ones are stored once."""
        return self._constant(np.array(value, np.float32), f"float {value}")

    def _constant(self, value: NDArray[Any], name: str) -> str:
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(value, name)
        return name

    def add(self, a: str, b: str, name: str) -> str:
        """Add elementwise."""
        return self.node("Add", a, b, name=name)

    def multiply(self, a: str, b: str, name: str) -> str:
        """Multiply elementwise."""
        return self.node("Mul", a, b, name=name)

    def matmul(self, a: str, b: str, name: str) -> str:
        """Multiply matrices, over all leading axes."""
        return self.node("MatMul", a, b, name=name)

    def gather(self, x: str, index: str, axis: int, name: str) -> str:
        """Select entries of an axis, which is replaced by the axes of ``index``."""
        return self.node("Gather", x, index, name=name, axis=axis)

    def reshape(self, x: str, shape: list[int], name: str) -> str:
        """Reshape; 0 keeps an axis, -1 takes the remaining size."""
        return self.node("Reshape", x, self.ints(shape), name=name)

    def transpose(self, x: str, order: list[int], name: str) -> str:
        """Permute the axes."""
        return self.node("Transpose", x, name=name, perm=order)

    def unsqueeze(self, x: str, axes: list[int], name: str) -> str:
        """Add axes of size 1."""
        return self.node("Unsqueeze", x, self.ints(axes), name=name)

    def first(self, x: str, count: str, axis: int, name: str) -> str:
        """Return the first ``count`` (a list with one number) entries of an axis."""
        return self.node("Slice", x, self.ints([0]), count, self.ints([axis]), name=name)

    def split(self, x: str, parts: int, size: int, axis: int, names: list[str]) -> list[str]:
        """Split an axis into equal parts."""
        sizes = self.ints([size] * parts)
        self.nodes.append(
            helper.make_node("Split", [x, sizes], names, name=f"{x}.parts", axis=axis)
        )
        return names

    def rename(self, old: str, new: str) -> None:
        """Rename a value; its node keeps its name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = new if name == old else name

    def finish(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> GraphProto:
        """Return the graph with all nodes; `move_tensors` adds its tensors."""
        return helper.make_graph(self.nodes, name, inputs, outputs)

    def move_tensors(self, graph: GraphProto) -> None:
        """Move the tensors one by one, so that a large model is never in memory twice."""
        for name in list(self.tensors):
            graph.initializer.append(self.tensors.pop(name))


def value(name: str, kind: int, shape: Shape | None) -> ValueInfoProto:
    """Return an input or output with its element type and shape; names are dynamic sizes."""
    return helper.make_tensor_value_info(name, kind, shape)
