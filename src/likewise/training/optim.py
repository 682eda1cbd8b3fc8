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
            kernels, others = list[Tensor](), list[Tensor]()
            for p in group["params"]:
                if p.grad is not None:
                    (kernels if p.ndim == 4 and p.shape[1] > 3 else others).append(p)
            if group.get("inner"):
                self._turn(kernels, others, group)
            else:
                self._turn(kernels, [], group)
                self._adamw(others, group)

    def _turn(self, kernels: list[Tensor], matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Orthogonal steps, of all matrices of one shape together."""
        params = kernels + matrices
        if not params:
            return
        grads, lr = _grads(params), group["lr"]
        buffers = [self._moment(p, "momentum_buffer") for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads)
        ahead = [x.flatten(1) for x in torch._foreach_add(grads, buffers, alpha=group["momentum"])]
        alike: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(ahead):
            alike.setdefault(x.shape, []).append(i)
        for rows in alike.values():
            turned = orthogonal(torch.stack([ahead[i] for i in rows]))
            for i, update in zip(rows, turned, strict=True):
                ahead[i] = update.reshape(params[i].shape)
        if kernels:
            lengths = torch._foreach_norm(kernels)
            torch._foreach_clamp_min_(lengths, 1e-12)
            torch._foreach_mul_(kernels, [len(p) ** 0.5 / length for p, length in zip(kernels, lengths, strict=True)])
            torch._foreach_add_(kernels, ahead[: len(kernels)], alpha=-lr)
        if matrices:
            steps = ahead[len(kernels) :]
            torch._foreach_mul_(steps, [max(1, p.shape[0] / p.shape[1]) ** 0.5 for p in matrices])
            torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
            torch._foreach_add_(matrices, steps, alpha=-lr)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if not params:
            return
        grads, lr, (b1, b2) = _grads(params), group["lr"] / 10, group["betas"]
        means, squares = ([self._moment(p, name) for p in params] for name in ("exp_avg", "exp_avg_sq"))
        counts = []
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", torch.zeros(())) + 1
            counts.append(float(self.state[p]["step"]))
        torch._foreach_lerp_(means, grads, 1 - b1)
        torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - b2)
        deviations = torch._foreach_div(squares, [1 - b2**n for n in counts])
        torch._foreach_sqrt_(deviations)
        torch._foreach_add_(deviations, 1e-8)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        steps = torch._foreach_div(means, [1 - b1**n for n in counts])
        torch._foreach_addcdiv_(params, steps, deviations, -lr)

    def _moment(self, p: Tensor, name: str) -> Tensor:
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p)
        return self.state[p][name]


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def orthogonal(x: Float[Tensor, "b n m"]) -> Float[Tensor, "b n m"]:
    """Singular values brought near 1 by four steps of Newton and Schulz's iteration, a quintic; bfloat16 on a GPU."""
    tall = x.shape[1] > x.shape[2]
    z = (x.mT if tall else x) / (x.flatten(1).norm(dim=1).reshape(-1, 1, 1) + 1e-7)
    z = z.to(torch.bfloat16 if x.is_cuda else torch.float32)
    for _ in range(4):
        square = z @ z.mT
        quintic = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
        z = torch.baddbmm(z, quintic, z, beta=3.4445)
    return (z.mT if tall else z).to(x.dtype)


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
