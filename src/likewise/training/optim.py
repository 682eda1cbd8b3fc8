"""Optimisers and the learning rate's course: AdamW, SGD, LARS, Muon; linear warm-up, then half a cosine or steps."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from likewise.errors import UsageError
from likewise.types import TrainConfig

OPTIMIZERS = ("adamw", "sgd", "lars", "muon")
SCHEDULES = ("cosine", "thirds")
THIRDS = (1 / 2, 2 / 3, 5 / 6)  # of the steps, where the rate falls to a third of what it was


class LARS(Optimizer):
    """SGD whose step on each matrix is scaled to its norm (You et al., 2017, arXiv 1708.03888).

    Vectors (biases, norms) are updated by plain SGD. The trust coefficient eta is 0.02, and the step is never enlarged.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float, eta: float = 0.02
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad.add(p, alpha=group["weight_decay"])
                if p.ndim > 1:
                    weight, length = p.norm(), update.norm()
                    trust = torch.where((weight > 0) & (length > 0), group["eta"] * weight / length, 1.0)
                    update = update * trust.clamp(max=1)
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                p.add_(buffer, alpha=-group["lr"])


class Muon(Optimizer):
    """Momentum whose step on each inner matrix is brought to an orthogonal one (Jordan et al., 2024).

    Inner are the kernels of convolutions and the groups marked `inner`, the matrices inside a transformer. Batch
    normalisation follows the convolutions: their scale means nothing, so it is held at the root of the number of
    outputs. The first convolution, which reads pixels, and everything else take an AdamW step at a tenth of the rate.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                kernel = p.ndim == 4 and p.shape[1] > 3
                if kernel or group.get("inner"):
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                    update = orthogonal(p.grad.add(buffer, alpha=group["momentum"]).flatten(1)).reshape(p.shape)
                    if kernel:
                        p.mul_(len(p) ** 0.5 / p.norm().clamp(min=1e-12)).add_(update, alpha=-group["lr"])
                    else:
                        scale = max(1, p.shape[0] / p.shape[1]) ** 0.5
                        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)
                else:
                    if not state:
                        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                        state["step"] = torch.zeros(())
                    state["step"] += 1
                    (b1, b2), n, lr = group["betas"], float(state["step"]), group["lr"] / 10
                    mean = state["exp_avg"].lerp_(p.grad, 1 - b1) / (1 - b1**n)
                    deviation = (state["exp_avg_sq"].lerp_(p.grad.square(), 1 - b2) / (1 - b2**n)).sqrt() + 1e-8
                    p.mul_(1 - lr * group["weight_decay"]).addcdiv_(mean, deviation, value=-lr)


def orthogonal(x: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Singular values brought near 1 by four steps of Newton and Schulz's iteration, a quintic; bfloat16 on a GPU."""
    tall = x.shape[0] > x.shape[1]
    z = (x.T if tall else x) / (x.norm() + 1e-7)
    z = z.to(torch.bfloat16 if x.is_cuda else torch.float32)
    for _ in range(4):
        square = z @ z.T
        z = 3.4445 * z + (2.0315 * square @ square - 4.7750 * square) @ z
    return (z.T if tall else z).to(x.dtype)


def check(config: TrainConfig) -> None:
    """Refuse a name or a number that no training can go by."""
    for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(config, name) not in known:
            raise UsageError(f"{name}={getattr(config, name)!r}: expected one of {', '.join(known)}")
    ranges = {
        "a number above 0": {"lr": config.lr > 0, "clip": config.clip is None or config.clip > 0},
        "numbers above 0": {"knn_epochs": all(epoch > 0 for epoch in config.knn_epochs)},
        "0 or more": {
            "weight_decay": config.weight_decay >= 0,
            "final_weight_decay": config.final_weight_decay is None or config.final_weight_decay >= 0,
            "final_lr": config.final_lr >= 0,
        },
        "0 or more, below 1": {"momentum": 0 <= config.momentum < 1, "betas": all(0 <= b < 1 for b in config.betas)},
        "a share of the steps, from 0 to 1": {"warmup": 0 <= config.warmup <= 1},
        "at least 1": {"monitor_every": config.monitor_every >= 1, "threads": config.threads >= 1},
    }
    for expected, held in ranges.items():
        for name, fine in held.items():
            if not fine:
                raise UsageError(f"{name}={getattr(config, name)}: expected {expected}")


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> Optimizer:
    """The optimiser that the configuration names; groups may bring their own weight decay, `rate` and `steady`."""
    check(config)
    groups = [{"rate": 1.0, "steady": False, "decays": "weight_decay" not in group, **group} for group in groups]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    if config.optimizer == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    rates: dict[str, Any] = {"lr": config.lr, "momentum": config.momentum, "betas": config.betas}
    return Muon(groups, weight_decay=config.weight_decay, **rates)


def set_rates(optimizer: Optimizer, config: TrainConfig, step: int, steps: int) -> None:
    """Give every group the learning rate and the weight decay of one step."""
    rate, decay = learning_rate(config, step, steps), config.weight_decay
    if config.final_weight_decay is not None:
        low, high = config.weight_decay, config.final_weight_decay
        decay = high + (low - high) * (1 + math.cos(math.pi * step / steps)) / 2
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * (config.lr if group["steady"] else rate)
        if group["decays"]:
            group["weight_decay"] = decay


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate of one step, of `steps` in all.

    >>> config = TrainConfig(lr=1.0, warmup=0.1)
    >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "thirds":
        return config.lr / 3 ** sum(step >= part * steps for part in THIRDS)
    progress = (step - warmup) / max(1, steps - warmup)
    low = config.lr * config.final_lr
    return low + (config.lr - low) * (1 + math.cos(math.pi * progress)) / 2
