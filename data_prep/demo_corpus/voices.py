"""Synthetic speakers: the voices of the espeak-ng engine, from the wheel `espeakng-loader`."""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import os
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from mossformer_sb.errors import InputError

NATIVE_RATE = 22050  # of all voices of the engine, in Hz

# Voices that are not used: whispers, one whose noise can't be seeded, and near copies of other voices.
_WHISPERS = {"whisper", "whisperf", "caleb"}
_NOT_SEEDED = {"Reed"}
_COPIES = {"RicishayMax3", "adam", "anikaRobot", "croak", "edward2", "fast", "gustave", "iven2", "iven3", "iven4"} | {
    "klatt2", "klatt4", "klatt6", "robosoft5", "steph2", "steph3"
}  # fmt: skip

# Median pitch above 160 Hz: women, and one child.
HIGH_VOICES = ("Alicia", "Andrea", "Annie", "anika", "aunty", "belinda", "f1", "f2", "f3", "f4", "f5") + (
    "grandma", "linda", "shelby", "steph", "zac"
)  # fmt: skip

# Names and numbers from espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_QUIET = 25  # the normal volume is 100, at which a third of the voices clip
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def list_voices() -> list[str]:
    """Names of the voices that sound like different speakers.

    Returns
    -------
    voices : list of str
        High voices first, then low ones, each in alphabetical order.

    Example
    -------
    >>> voices = list_voices()
    >>> len(voices) > 80, voices[0]
    (True, 'Alicia')
    """
    variants = {path.name for path in Path(_loader().get_data_path(), "voices", "!v").iterdir()}
    usable = variants - _WHISPERS - _NOT_SEEDED - _COPIES
    return sorted(usable.intersection(HIGH_VOICES)) + sorted(usable.difference(HIGH_VOICES))


def synthesize(text: str, voice: str, pitch: int = 50, rate: int = 170, sample_rate: int = NATIVE_RATE) -> np.ndarray:
    """Synthesises a text; the same arguments give the same samples.

    Arguments
    ---------
    text : str
        English text.
    voice : str
        One of `list_voices()`.
    pitch : int
        0 to 99; 50 is the voice's default.
    rate : int
        Words per minute, 80 to 450.
    sample_rate : int
        Sample rate of the result, in Hz.

    Returns
    -------
    speech : numpy.ndarray
        float32, shape [time].

    Raises
    ------
    InputError
        If the wheel is not installed, or the voice is not known.

    Example
    -------
    >>> speech = synthesize("Good morning.", "f2", sample_rate=8000)
    >>> speech.dtype, speech.ndim, 0.5 < len(speech) / 8000 < 1.5
    (dtype('float32'), 1, True)
    """
    if voice not in list_voices():
        raise InputError(f"voice {voice!r} is not known: choose one of {', '.join(list_voices())}.")
    chunks = []

    @_CALLBACK
    def collect(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())  # the engine reuses its buffer
        return 0

    with _engine() as engine:
        engine.espeak_SetSynthCallback(collect)
        engine.espeak_SetVoiceByName(f"en-us+{voice}".encode())
        for parameter, value in ((_RATE, rate), (_VOLUME, _QUIET), (_PITCH, pitch), (_RANGE, 50)):
            engine.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        engine.espeak_Synth(data, size, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        engine.espeak_Synchronize()
    speech = np.concatenate(chunks) / np.float32(2**15)
    return resample_poly(speech, sample_rate, NATIVE_RATE).astype(np.float32, copy=False)


def _loader():
    try:
        import espeakng_loader
    except ImportError:
        raise InputError(
            'The small corpus needs espeak-ng, but espeakng_loader is not installed: pip install "mossformer_sb[mini]"'
        ) from None
    return espeakng_loader


@contextlib.contextmanager
def _engine():
    """Context: loads the engine, and unloads it afterwards.

    A loaded library keeps the state of its pitch flutter, echo and random numbers from one text to the next; no
    function resets them. Loading takes 2 ms.
    """
    loader = _loader()
    library = ctypes.CDLL(loader.get_library_path())
    try:
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(loader.get_data_path()), 0)
        if rate != NATIVE_RATE:
            raise RuntimeError(f"espeak-ng could not start: it gives a sample rate of {rate}, not {NATIVE_RATE}.")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        yield library
        library.espeak_Terminate()
    finally:
        # ctypes can't unload. If dlclose does not unload (musl), speech depends on the texts before it.
        unload = _ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose
        unload(library._handle)
