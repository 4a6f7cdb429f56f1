r"""Write a copy of ONNX Runtime that does not use AVX512, to measure on a CPU that has it.

    python benchmarks/onnxruntime_avx2.py DIR
    PYTHONPATH=DIR MOTHERBIRD_ENGINE=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
        MKL_ENABLE_INSTRUCTIONS=AVX2 motherbird bench cpu

ONNX Runtime has no setting for it. It reads with XGETBV which registers the system saves; the copy
ignores the bits of AVX512 in the result. x86-64 only.
"""

import argparse
import shutil
from pathlib import Path

import onnxruntime

# In MLAS_PLATFORM: xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax; not rax; mov r8, rdx; test al, 6
FOUND = bytes.fromhex("0f01d0 89c0 48c1e220 4809c2 48f7d0 4989d0 a806")
# The same with "and al, 0x1f" in place of "mov eax, eax".
CHANGED = bytes.fromhex("0f01d0 241f 48c1e220 4809c2 48f7d0 4989d0 a806")


def main() -> None:
    """Copy the package, and change its library."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    copy = parser.parse_args().directory / "onnxruntime"
    shutil.copytree(Path(onnxruntime.__file__).parent, copy)
    (library,) = copy.glob("capi/onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    if code.count(FOUND) != 1:
        raise SystemExit(f"unknown code in {library}: this was written for ONNX Runtime 1.32")
    library.write_bytes(code.replace(FOUND, CHANGED))


if __name__ == "__main__":
    main()
