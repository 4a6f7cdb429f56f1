"""Types of arrays and tensors with their shapes, those of jaxtyping.

jaxtyping takes longer to import than NumPy, and only type checkers and tests use what it says.
Where it was not imported before, the types are `Any`.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Complex as Complex
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int as Int
    from jaxtyping import Int8 as Int8
    from jaxtyping import Int32 as Int32
    from jaxtyping import Int64 as Int64
    from jaxtyping import Integer as Integer
    from jaxtyping import Shaped as Shaped
    from jaxtyping import UInt as UInt
    from jaxtyping import UInt32 as UInt32
    from jaxtyping import UInt64 as UInt64
else:

    class _Array:
        """An array of any type and shape."""

        def __class_getitem__(cls, array: object) -> Any:
            return Any

    Bool = Complex = Float = Float32 = Float64 = Int = Int8 = Int32 = Int64 = _Array
    Integer = Shaped = UInt = UInt32 = UInt64 = _Array
