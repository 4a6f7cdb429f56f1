r"""Write copies of ONNX Runtime and OpenVINO that do not use AVX512, for CPUs that have it.

    python benchmarks/without_avx512.py DIR
    PYTHONPATH=DIR MOTHERBIRD_ENGINE=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
        MKL_ENABLE_INSTRUCTIONS=AVX2 motherbird bench cpu

ONNX Runtime has no setting for it, and OpenVINO fails with oneDNN's. Both read with XGETBV which
registers the system saves; the copies ignore the bits of AVX512 in the result. x86-64 only.
"""

import argparse
import re
import shutil
from pathlib import Path

import onnxruntime
import openvino

# xgetbv; mov eax, eax; with "shl rdx, 32" between them or not
READS = re.compile(rb"(\x0f\x01\xd0(?:\x48\xc1\xe2\x20)?)\x89\xc0")
MASKS = b"\\1\x24\x1f"  # "and al, 0x1f" in place of "mov eax, eax"
LIBRARIES = {
    onnxruntime: ("capi/onnxruntime_pybind11_state*.so",),
    openvino: ("libs/libopenvino.so*", "libs/libopenvino_intel_cpu_plugin.so"),
}


def main() -> None:
    """Copy the packages, and change their libraries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    directory = parser.parse_args().directory
    for package, patterns in LIBRARIES.items():
        copy = directory / package.__name__
        shutil.copytree(Path(package.__file__).parent, copy)
        for library in (path for pattern in patterns for path in copy.glob(pattern)):
            code, count = READS.subn(MASKS, library.read_bytes())
            if not count:
                raise SystemExit(f"{library}: XGETBV was not found")
            library.write_bytes(code)
            print(f"{library}: {count} changed")


if __name__ == "__main__":
    main()
