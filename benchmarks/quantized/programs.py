"""Attention in few bits for benchmarks: a case under a scheme, the kernel it becomes, and what it means in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attir.compiler.attention_cases import Case
from attir.compiler.custom_op import Runner
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.prepare_site import prepare
from attir.compiler.schemes import Scheme
from attir.compiler.site_program import ProgramRunner
from attir.compiler.storage_math import dequantize
from attir.ir.dialects.attn import AttentionOp
from benchmarks.cpu.measuring import Call

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Program:
    """A case under a scheme: `whole` quantises and attends, `kernel` attends to what lies in few bits already."""

    whole: Runner
    kernel: Runner
    attention: AttentionOp

    @staticmethod
    def of(case: Case, scheme: Scheme | None, backend: str = "native") -> Program:
        program = prepare(case.module(), None, quantize=scheme).program
        kernel = compile_site(program.kernel(), Options(backend=backend)).runner
        whole = kernel if program.alone else ProgramRunner(program, kernel)
        return Program(whole, kernel, AttentionOp(program.outlined_attention))

    def operands(self, inputs: Inputs) -> list[torch.Tensor]:
        """What the kernel is called on for these q, k and v: codes and scales."""
        seen: list[torch.Tensor] = []

        def see(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
        ) -> tuple[torch.Tensor, torch.Tensor]:
            seen[:] = [q, k, v, *captures]
            return self.kernel(q, k, v, captures, want_lse)

        if isinstance(self.whole, ProgramRunner):
            ProgramRunner(self.whole.program, see)(*inputs, [], False)
            return seen
        return list(inputs)

    def call(self, inputs: Inputs) -> Call:
        """Quantisation and attention."""
        return lambda: self.whole(*inputs, [], False)[0]

    def kernel_call(self, inputs: Inputs) -> Call:
        """Attention over what was quantised before."""
        q, k, v, *captures = self.operands(inputs)
        return lambda: self.kernel(q, k, v, captures, False)[0]

    def meant(self, inputs: Inputs) -> list[torch.Tensor]:
        """q, k and v in float64 as the stored operands mean them."""
        q, k, v, *captures = self.operands(inputs)
        known = dict(zip(self.attention.captures, captures, strict=True))
        found: list[torch.Tensor] = []
        for name, stored, plain in zip(("query", "key", "value"), (q, k, v), inputs, strict=True):
            storage = self.attention.stored(name)
            if storage is None:
                found.append(stored.double())
                continue
            read = next(op for op in self.attention.region(name).walk() if op.name == "attn.dequantize")
            arguments = self.attention.region(name).block.arguments
            outside = dict(zip(arguments[len(arguments) - len(known) :], known.values(), strict=True))
            scales = [outside[v] for v in read.operands[5:]]
            found.append(dequantize(stored, storage, *scales, tokens=plain.shape[2], dtype=torch.float64))
        return found


def exact(case: Case, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention in float64."""
    q, k, v = (x.double() for x in operands)
    return case.reference(q, k, v, ())[0]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The relative L2 error."""
    return float(((found.double() - wanted.double()).square().sum() / wanted.double().square().sum()).sqrt())
