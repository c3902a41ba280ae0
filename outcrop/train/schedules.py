"""How the learning rate goes over the steps of a training."""


def lr_factor(step: int, n_steps: int, warmup_share: float) -> float:
    """Rises linearly to 1 over the first share of the steps, then falls linearly towards 0."""
    n_warmup = max(1, round(warmup_share * n_steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    return (n_steps - step) / max(1, n_steps - n_warmup)
