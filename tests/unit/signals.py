"""Signals of the kinds that recordings have, for property tests."""

import numpy as np
from scipy.signal import butter, resample_poly, sosfilt

KINDS = ("white", "low-pass", "upsampled", "tonal", "clipped", "nearly silent", "offset", "sparse", "correlated")


def signals(rng, kinds, num_samples):
    """One signal of each kind: [T, S], in double precision, of a level around 1 ("nearly silent": 1e-4)."""
    made = []
    for kind in kinds:
        signal = _signal(rng, kind, num_samples)
        if kind == "correlated" and made:
            signal = 0.9 * made[0] + 0.4 * signal
        made.append(signal)
    return np.stack(made, axis=-1)


def _signal(rng, kind, num_samples):
    white = rng.standard_normal(num_samples)
    if kind == "low-pass":
        coloured = sosfilt(butter(6, 0.175, output="sos"), rng.standard_normal(num_samples + 200))[200:]
        return coloured / coloured.std()
    if kind == "upsampled":
        return resample_poly(rng.standard_normal(num_samples // 2 + 1), 2, 1)[:num_samples]
    if kind == "tonal":
        time = np.arange(num_samples)
        frequency = rng.uniform(0.02, 0.1)
        return sum(np.sin(2 * np.pi * n * frequency * time + rng.uniform(0, 6)) / n for n in (1, 2, 3)) + 1e-3 * white
    if kind == "clipped":
        return np.clip(2 * white, -1, 1)
    if kind == "nearly silent":
        return 1e-4 * white
    if kind == "offset":
        return white + 3.0
    if kind == "sparse":
        return white * (rng.random(num_samples) < 0.1) + 1e-6 * white
    return white
