"""How the learning rate and k go over the steps of a training."""


def lr_factor(step: int, n_steps: int, warmup_share: float, *, decays: bool = True) -> float:
    """Rises linearly to 1 over the first share of the steps, then falls linearly towards 0, if it decays."""
    n_warmup = max(1, round(warmup_share * n_steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    return (n_steps - step) / max(1, n_steps - n_warmup) if decays else 1.0


def k_at(step: int, n_steps: int, k: int, k_start: int | None, decay_share: float) -> int:
    """Falls linearly from k_start to k over the first share of the steps."""
    n_decay = round(decay_share * n_steps)
    if k_start is None or step >= n_decay:
        return k
    return round(k_start + (k - k_start) * step / n_decay)
