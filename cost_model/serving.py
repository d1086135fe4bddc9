"""What a device can serve of a language model at best: four limits in closed form, from sizes and data sheets alone.

Y. Fu, "Challenges in Deploying Long-Context Transformers" (arXiv 2405.08944): prefilling is bound by operations,
decoding by reading weights and cache, concurrency by memory, switching between users by the link to the host. Decoding
attention does as many operations for a byte whatever the batch ("Mind the Memory Gap", arXiv 2503.08311), so that a
batch saves only the reading of weights. A request takes its prompt and then its tokens, one after the other
(Narayanan et al., "Cheaply Evaluating Inference Efficiency Metrics", arXiv 2305.02440).
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import Device


@dataclass(frozen=True)
class LanguageModel:
    """A decoder: parameters in all, layers, heads of queries and of keys, the width of a head, bytes of a number."""

    parameters: float
    layers: int
    heads: int
    key_heads: int
    width: int
    element_bytes: int = 2

    @property
    def weight_bytes(self) -> float:
        return self.parameters * self.element_bytes

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.key_heads * self.width * self.element_bytes

    def cache_bytes(self, context: int) -> float:
        """Keys and values of one user."""
        return float(context) * self.token_bytes

    def prefill_flops(self, context: int) -> float:
        """Two for each parameter and token, and causal attention: two products over half of all pairs."""
        attention = 2.0 * self.layers * self.heads * self.width * float(context) ** 2
        return 2.0 * self.parameters * context + attention

    @property
    def decode_intensity(self) -> float:
        """Operations of attention for each byte of the cache: 4 heads N d over 2 key heads N d bytes, whatever N."""
        return 2.0 * self.heads / (self.key_heads * self.element_bytes)


@dataclass(frozen=True)
class ServingLimits:
    """At best: seconds to read a prompt, users at once, seconds a token for all of a batch, seconds to swap a user."""

    prefill: float
    users: float
    token: float
    switch: float

    def request(self, tokens: int) -> float:
        """Seconds until the last of so many tokens; the first one comes out of the prompt."""
        return self.prefill + max(0, tokens - 1) * self.token

    def binding(self, tokens: int, users: int) -> str:
        """What to improve first for so many users, of whom each asks for so many tokens: the limit that costs most."""
        swaps = max(0.0, users - max(1.0, self.users))
        costs = {
            "prefill": users * self.prefill,
            "decoding": max(0, tokens - 1) * self.token,
            "switching": swaps * self.switch,
        }
        return max(costs, key=lambda name: costs[name])


def serving_limits(model: LanguageModel, context: int, device: Device, batch: int = 1) -> ServingLimits:
    """Of one device, or of several as one whose peak, memory and links are their sums."""
    cache = model.cache_bytes(context)
    return ServingLimits(
        prefill=model.prefill_flops(context) / device.tensor_peak,
        users=max(0.0, device.memory - model.weight_bytes) / cache,
        token=decode_seconds(model, context, device, batch),
        switch=2.0 * cache / device.pcie,  # one user's cache out, the next one's in
    )


def decode_seconds(model: LanguageModel, context: int, device: Device, batch: int = 1) -> float:
    """Of one token for each of a batch: the weights once and all caches are read, beside two operations a weight."""
    read = (model.weight_bytes + batch * model.cache_bytes(context)) / device.bandwidth
    flops = 2.0 * model.parameters * batch + batch * model.cache_bytes(context) * model.decode_intensity
    return max(read, flops / device.tensor_peak)


def knee(model: LanguageModel, context: int, device: Device, gain: float = 0.1) -> int:
    """The largest batch whose doubling to it still brought `gain` more tokens a second, as far as memory goes."""
    most = int(max(0.0, device.memory - model.weight_bytes) / model.cache_bytes(context))
    batch = 1
    while 2 * batch <= most:
        now, doubled = (b / decode_seconds(model, context, device, b) for b in (batch, 2 * batch))
        if doubled < now * (1 + gain):
            break
        batch *= 2
    return batch
