"""Asks the tuning cache for every attention of a model, as a call would, to say what is found there and why not."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..cost_model.cpus import CPUS
from ..cost_model.problem import Sizes
from ..ir.core import Operation
from .native_kernels import NativeKernels
from .options import Options
from .site_plans import SitePlans
from .sites import CompiledSite, SiteCompiler
from .triton_kernels import TritonKernels
from .tuning_cache import lookups_in_words, tuning_cache


@dataclass(eq=False)
class LookupRecorder:
    """Compiles sites with `compile_site`, after asking the cache for plans for `target`; `found` tells of it."""

    compile_site: SiteCompiler
    target: str
    found: list[str] = field(default_factory=list[str])

    def __call__(self, module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        site = self.compile_site(module, options, call)
        plans = SitePlans(module, self.target)
        if isinstance(call, Sizes):
            if self.target in CPUS:
                native = NativeKernels(module, self.target)
                calls = native.calls(native.choice(call.queries), call)
            else:
                triton = TritonKernels(module, self.target, options.wishes)
                calls = triton.calls(triton.choice(call.queries), call)
            name = plans.key(calls)
            self.found.append(f"plan {name.ir} {name.bucket}: {plans.find(calls).reason}")
        else:
            self.found.append("plan: not asked for: the sizes are not known before the first call")
        return site

    @property
    def lines(self) -> list[str]:
        """What was asked for and found, each once: plans of sites, then what else was looked up on the way."""
        cache = tuning_cache()
        others = [line for line in lookups_in_words(cache) if not line.startswith("plan ")]
        problem = [f"the cache is kept in memory: {cache.problem}"] if cache.problem else []
        return [*problem, *dict.fromkeys(self.found), *others]
