"""The learning rate of each step, from its number alone, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

WARMUP_SHARE, MAX_WARMUP_STEPS = 0.05, 20
"""Adam's second moment is an estimate from one gradient at first, and the first updates are as large as any. With
beta2 = 0.999 the advice for full training is 2 / (1 - beta2) = 2000 steps (arXiv 1910.04209), more than a LoRA has; the
B of a LoRA starts at zero, so a few steps are enough to average the first gradients.
"""
DECAY_SHARE = 0.2
"""A constant rate, then a decay to zero over the last 10 to 20 % of the steps, ends as low as a cosine over all of them
(arXiv 2405.18392; MiniCPM, arXiv 2404.06395). At batch size 1 the weights wander around the minimum at a distance
that grows with the rate: the decay takes them in.
"""


def learning_rate(step: int, total: int, peak: float) -> float:
    """Return the rate of a step, counted from 0 of `total`: linear warm-up, `peak`, linear decay.

    The decay would reach zero one step after the last; so no step is lost to a rate of zero.
    """
    warmup = min(int(WARMUP_SHARE * total), MAX_WARMUP_STEPS)
    decay = int(DECAY_SHARE * total)
    rising = (step + 1) / (warmup + 1)
    falling = (total - step) / (decay + 1)
    return peak * min(rising, 1.0, falling)
