"""What the native backend asks of a CPU, and how it says what is missing."""

from __future__ import annotations

import pytest

from attir.compiler import host_cpu
from attir.ir.diagnostics import CompileError

AVX2 = "fpu sse2 avx avx2 fma f16c"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512cd"


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A processor whose fields the test fills in, on Linux."""
    fields = {"model name": "Test CPU", "flags": AVX512}
    monkeypatch.setattr(host_cpu, "processor", lambda: fields)
    monkeypatch.setattr(host_cpu, "machine", lambda: ("linux", "x86_64"))
    return fields


def message() -> str:
    with pytest.raises(CompileError) as raised:
        host_cpu.host_target()
    return raised.value.diagnostics[0].message


@pytest.mark.parametrize(("flags", "target"), [(AVX512, "avx512"), (AVX2, "avx2")])
def test_the_widest_target_that_runs_is_taken(cpu: dict[str, str], flags: str, target: str) -> None:
    cpu["flags"] = flags
    assert host_cpu.host_target() == target


@pytest.mark.parametrize("missing", ["avx512bw", "avx512dq", "avx512vl", "avx512cd"])
def test_part_of_avx512_is_not_enough(cpu: dict[str, str], missing: str) -> None:
    cpu["flags"] = AVX512.replace(missing, "")
    assert host_cpu.host_target() == "avx2"


@pytest.mark.parametrize("missing", ["avx2", "fma", "f16c"])
def test_what_is_missing_is_named(cpu: dict[str, str], missing: str) -> None:
    cpu["flags"] = " ".join(flag for flag in AVX2.split() if flag != missing)
    assert f"needs AVX2 with FMA and F16C, but this CPU (Test CPU) lacks {missing};" in message()


def test_another_machine_is_named(cpu: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cpu, "machine", lambda: ("darwin", "arm64"))
    assert 'needs Linux on x86-64, but this is darwin on arm64; backend="interpret"' in message()


def test_a_silent_kernel_is_named(cpu: dict[str, str]) -> None:
    cpu.clear()
    assert "/proc/cpuinfo does not say what this CPU has" in message()
    assert host_cpu.host_name() == "unknown processor"


def test_this_machine_has_a_name_and_sorted_features() -> None:
    assert host_cpu.host_name()
    features = host_cpu.host_features()
    assert list(features) == sorted(set(features))
