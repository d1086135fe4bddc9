"""Reads the assembly of AMD kernels: registers, spills, matrix instructions, from its own metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COUNT = r"\.{}:\s+(\d+)"


@dataclass(frozen=True)
class AmdReport:
    """Vector and accumulation registers a lane, registers spilled, scratch bytes a lane, MFMA instructions."""

    vector_registers: int
    accumulation_registers: int
    spilled: int
    scratch: int
    matrix_instructions: int


def read_assembly(text: str) -> AmdReport:
    """The counts that the metadata at the end of an amdgcn listing gives; 0 where it gives none."""

    def count(field: str) -> int:
        found = re.search(_COUNT.format(field), text)
        return int(found[1]) if found else 0

    return AmdReport(
        count("vgpr_count"),
        count("agpr_count"),
        count("vgpr_spill_count") + count("sgpr_spill_count"),
        count("private_segment_fixed_size"),
        len(re.findall(r"^\s+v_mfma_\w+", text, re.MULTILINE)),
    )
