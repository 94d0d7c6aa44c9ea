"""Room impulse responses (RIR), from a folder written by the preparation.

The folder holds ``rooms.json`` and, for each room, ``000000.npy``, ``000001.npy`` and so on: float32 of the shape
[S, 2, R], for each source the RIR of only the direct path and the complete RIR. Both are aligned: the direct path
arrives at the same sample.

Shapes: S sources, T samples, R samples of an RIR.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from mossformer_sb.errors import InputError

DESCRIPTION = "rooms.json"


class ImpulseResponses:
    """A set of room impulse responses.

    Arguments
    ---------
    folder : str or Path
        Folder of the RIRs, see above.
    num_spks : int
        Required number S of sources per room.
    sample_rate : int
        Required sample rate of the RIRs in Hz.

    Raises
    ------
    InputError
        If the folder holds no such RIRs, or not all of them.
    """

    def __init__(self, folder: str | Path, num_spks: int, sample_rate: int) -> None:
        self.folder = Path(folder)
        try:
            facts = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{self.folder / DESCRIPTION}: can't be read ({error.strerror}). The preparation computes the room "
                "impulse responses: start without --skip_prep."
            ) from error
        found, needed = (facts["num_spks"], facts["sample_rate"]), (num_spks, sample_rate)
        if found != needed:
            raise InputError(
                f"{self.folder}: has rooms for {found[0]} speakers at {found[1]} Hz; needed {needed[0]} at {needed[1]} "
                "Hz. Give another rir_folder, or start without --skip_prep."
            )
        self.num_rooms = facts["num_rooms"]
        self.identity = facts.get("rooms", f"{self.num_rooms} rooms")  # a hash of their parameters

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the RIRs of a room, [S, 2, R]."""
        path = self.folder / response_name(int(rng.integers(self.num_rooms)))
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: can't be read ({error}). Delete it, and start without --skip_prep.") from error

    @staticmethod
    def images(responses: np.ndarray, dry: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """Convolve speakers with the RIRs of a room.

        Both images are scaled by the factor that gives the direct path the energy of the dry signal, as in WHAMR!.

        Arguments
        ---------
        responses : numpy.ndarray
            [S, 2, R].
        dry : numpy.ndarray
            [S, lead + T].
        lead : int
            Number of samples at the beginning that only contribute their reverberation.

        Returns
        -------
        direct, reverberant : numpy.ndarray
            [S, T], float64.

        Example
        -------
        >>> responses = np.zeros((1, 2, 3))
        >>> responses[0, :, 1], responses[0, 1, 2] = 0.5, 0.25  # an echo of half the strength
        >>> direct, reverberant = ImpulseResponses.images(responses, np.array([[4.0, 1.0, 0.0, 0.0]]), lead=0)
        >>> (direct.round(6) + 0.0).tolist(), (reverberant.round(6) + 0.0).tolist()
        ([[0.0, 4.0, 1.0, 0.0]], [[0.0, 4.0, 3.0, 0.5]])
        """
        length = dry.shape[1]
        size = next_fast_len(length + responses.shape[2] - 1, real=True)
        spectra = rfft(dry.astype(np.float64), size)[:, None] * rfft(responses.astype(np.float64), size)
        images = irfft(spectra, size)[..., lead:length]  # [S, 2, T]
        dry_energy = np.square(dry[:, lead:], dtype=np.float64).sum(axis=-1)
        direct_energy = np.square(images[:, 0]).sum(axis=-1)
        ratios = np.divide(dry_energy, direct_energy, out=np.zeros_like(dry_energy), where=direct_energy > 0)
        factors = np.sqrt(ratios)
        return factors[:, None] * images[:, 0], factors[:, None] * images[:, 1]


def response_name(number: int) -> str:
    """Name of the file with a room's impulse responses.

    Example
    -------
    >>> response_name(7)
    '000007.npy'
    """
    return f"{number:06d}.npy"
