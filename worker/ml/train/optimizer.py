"""AdamW, and its 8-bit form by bitsandbytes for where memory asks for it. The state of one can be given to the other.

Torch's is fused: a few kernels for all weights. The 8-bit one waits for the device after each weight, 684 times a step
to save 0.25 GiB for a LoRA of 45 million weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

import torch

WEIGHT_DECAY = 1e-4  # diffusers' dreambooth scripts
_BLOCK = 256  # values that share a scale in bitsandbytes' blockwise optimizers (bitsandbytes/optim/optimizer.py)

State = Mapping[str, torch.Tensor | float]
"""What an optimizer keeps for one weight.

AdamW's: `step`, `exp_avg`, `exp_avg_sq`. bitsandbytes': `step`, and for each of the two moments `state1` in float32
if the weight is small, else `state1` in uint8, `qmap1` (256 float32 values) and `absmax1` (one float32 a block).
"""


def adamw(weights: Iterable[torch.nn.Parameter], learning_rate: float, *, eight_bit: bool) -> torch.optim.Optimizer:
    """Return AdamW over float32 weights; with `eight_bit`, bitsandbytes', which must be installed."""
    if eight_bit:
        of_8_bits: type[torch.optim.Optimizer] = importlib.import_module("bitsandbytes").optim.AdamW8bit
        return of_8_bits(list(weights), lr=learning_rate, weight_decay=WEIGHT_DECAY)  # type: ignore[call-arg]
    return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


def load_state(optimizer: torch.optim.Optimizer, kept: Mapping[torch.nn.Parameter, State]) -> None:
    """Put the state of its weights into an optimizer, converted if an optimizer of the other kind has kept it.

    Raises ValueError, and changes nothing, if the state is neither's.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    into = _for_adamw if isinstance(optimizer, torch.optim.AdamW) else _for_eight_bit
    states = {index: into(optimizer, weight, kept[weight]) for index, weight in enumerate(weights)}
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _for_adamw(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, state: State) -> State:
    match state:
        case {"step": _, "exp_avg": _, "exp_avg_sq": _}:
            return state
        case {"step": step, "state1": _, "state2": _}:
            moments = {name: _dequantised(state, number) for number, name in ((1, "exp_avg"), (2, "exp_avg_sq"))}
            return {"step": torch.tensor(float(step)), **moments}
    raise ValueError(f"the optimizer's state has {sorted(state)}, which AdamW cannot use")


def _for_eight_bit(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, state: State) -> State:
    match state:
        case {"step": _, "state1": _, "state2": _}:
            return state
        case {"step": step, "exp_avg": torch.Tensor() as mean, "exp_avg_sq": torch.Tensor() as square}:
            if weight.numel() < optimizer.args.min_8bit_size:  # type: ignore[attr-defined]
                return {"step": int(step), "state1": mean, "state2": square}
            first, second = _quantised(mean.to(weight.device), 1), _quantised(square.to(weight.device), 2)
            return {"step": int(step), **first, **second}
    raise ValueError(f"the optimizer's state has {sorted(state)}, which 8-bit AdamW cannot use")


def _quantised(moment: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
    """Return the first moment, which has a sign, or the second, which has none, as bitsandbytes keeps them."""
    functional = importlib.import_module("bitsandbytes.functional")
    qmap = functional.create_dynamic_map(signed=number == 1).to(moment.device)
    codes, scales = functional.quantize_blockwise(moment, code=qmap, blocksize=_BLOCK)
    return {f"state{number}": codes, f"qmap{number}": qmap, f"absmax{number}": scales.absmax}


def _dequantised(state: State, number: int) -> torch.Tensor:
    """Return a moment in float32, in torch's own operations: bitsandbytes may not be installed here."""
    match [state.get(f"{name}{number}") for name in ("state", "qmap", "absmax")]:
        case [torch.Tensor() as values, None, None]:
            return values
        case [torch.Tensor() as codes, torch.Tensor() as qmap, torch.Tensor() as absmax]:
            scales = absmax.repeat_interleave(_BLOCK)[: codes.numel()]
            return (qmap[codes.flatten().long()] * scales).view(codes.shape)
    raise ValueError(f"the optimizer's state has {sorted(state)}: a moment is incomplete")
