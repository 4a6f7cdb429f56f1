"""The engine without Python (c/selftest.c): sanitizers, guard pages, and variants of other CPUs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from motherbird.engine.compile import SOURCES, VARIANTS, ZIG_CC, compile_objects, compiler

SELFTEST = Path(__file__).parent / "c" / "selftest.c"
CPU = os.uname().machine
NAMES = ("portable", *VARIANTS.get("arm64" if CPU == "aarch64" else CPU, {}))
MISSING = 77  # the exit code where the CPU cannot run the variant

pytestmark = pytest.mark.skipif(compiler() == ZIG_CC, reason="there is no C compiler")


def build(directory, *flags, sources=SOURCES, target=""):
    """Compile the engine, with instructions of other CPUs emulated, and the test."""
    program = directory / "selftest"
    objects = compile_objects(directory, "-DEMULATE", "-g", *flags, sources=sources, target=target)
    subprocess.run([*compiler(target), "-std=c11", "-D_GNU_SOURCE", *flags, f"-I{SOURCES}",
                    SELFTEST, *objects, "-o", program, "-lm", "-lpthread"],
                   check=True)  # fmt: skip
    return program


def run(program, variant, seed, rounds):
    done = subprocess.run([program, variant, str(seed), str(rounds)], capture_output=True,
                          text=True, timeout=500)  # fmt: skip
    if done.returncode == MISSING:
        pytest.skip(f"this CPU cannot run {variant}")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plain"), "-O1")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    # Without optimization, gcc needs a third of the time.
    flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return build(tmp_path_factory.mktemp("sanitized"), *flags)


@pytest.mark.parametrize("variant", NAMES)
def test_every_variant_equals_the_reference(variant, plain):
    run(plain, variant, seed=1, rounds=8)


@pytest.mark.parametrize("variant", NAMES)
def test_no_access_outside_of_memory_and_no_undefined_behaviour(variant, sanitized):
    run(sanitized, variant, seed=2, rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize("variant", NAMES)
def test_many_more_sizes(variant, sanitized):
    run(sanitized, variant, seed=3, rounds=80)


@pytest.mark.slow
def test_threads_do_not_race(tmp_path):
    run(build(tmp_path, "-O1", "-fsanitize=thread"), NAMES[-1], seed=4, rounds=40)


def test_ids_terms_and_states_stay_in_their_memory(tmp_path):
    program = tmp_path / "texts"
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    sources = [SOURCES / f"{name}.c" for name in ("words", "terms", "states")]
    subprocess.run([*compiler(), *flags, "-D_GNU_SOURCE", SELFTEST.with_name("texts.c"), *sources,
                    "-o", program], check=True)  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_a_wrong_result_would_be_noticed(tmp_path):
    """With eps a hundred times larger in the engine, the test fails."""
    wrong = tmp_path / "c"
    shutil.copytree(SOURCES, wrong)
    forward = (wrong / "forward.h").read_text()
    assert "variance + m->epsilon" in forward
    changed = forward.replace("variance + m->epsilon", "variance + 100 * m->epsilon")
    (wrong / "forward.h").write_text(changed)
    program = build(tmp_path, "-O0", sources=wrong)
    assert subprocess.run([program, "portable", "1", "5"], capture_output=True).returncode == 1


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    if not shutil.which("qemu-aarch64"):
        pytest.skip("needs qemu-aarch64, of Debian's package qemu-user")
    pytest.importorskip("ziglang")
    directory = tmp_path_factory.mktemp("arm")
    return build(directory, "-static", target="aarch64-linux-musl")


@pytest.mark.parametrize("variant", ["portable", *VARIANTS["arm64"]])
def test_variants_of_64_bit_arm(variant, arm):
    command = ["qemu-aarch64", "-cpu", "max", arm, variant, "5", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
