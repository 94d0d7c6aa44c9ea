"""Damaged audio files of every kind give samples or an InputError, the same wherever they are read.

The damages are drawn with fixed seeds. MOSSFORMER_SB_FUZZ_SECONDS=600 draws others for so long.
"""

import functools
import io
import os
import struct
import time
import warnings

import numpy as np
import pytest
import soundfile

from data_prep.manifests.checks import Fault, read_header
from mossformer_sb.data.audio_io import Recording, read_audio
from mossformer_sb.errors import InputError

RATE = 8000
FRAMES = 12000
CASES = 25  # of each format, in the suite
SECONDS = float(os.environ.get("MOSSFORMER_SB_FUZZ_SECONDS", 0))
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "ULAW"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("SVX", "PCM_16"),
    ("VOC", "PCM_16"),
    ("AVR", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


@functools.cache
def whole(container, subtype):
    """The content of a sound file."""
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * rng.standard_normal(FRAMES), RATE, format=container, subtype=subtype)
    return stream.getvalue()


def cut(rng, content):
    return content[: rng.integers(len(content) + 1)]


def cut_front(rng, content):
    return content[rng.integers(min(len(content), 3000) + 1) :]


def flip_in_header(rng, content):
    return _flip(rng, content, min(len(content), 200))


def flip_anywhere(rng, content):
    return _flip(rng, content, len(content))


def _flip(rng, content, stop):
    content = bytearray(content)
    for place in rng.integers(0, max(1, stop), rng.integers(1, 6)):
        if content:
            content[place % len(content)] = rng.integers(256)
    return bytes(content)


def extreme_number(rng, content):
    """A size or a count that can't be."""
    number = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0x7FFFF000, len(content)][rng.integers(7)]
    place = int(rng.integers(4, 120)) // 2 * 2
    return content[:place] + struct.pack("<>"[rng.integers(2)] + "I", number) + content[place + 4 :]


def remove(rng, content):
    place, count = rng.integers(len(content) + 1), rng.integers(1, 2000)
    return content[:place] + content[place + count :]


def insert(rng, content):
    place = rng.integers(len(content) + 1)
    return content[:place] + rng.bytes(rng.integers(1, 5000)) + content[place:]


def zeros(rng, content):
    place, count = rng.integers(len(content) + 1), rng.integers(1, 2000)
    return content[:place] + bytes(int(count)) + content[place + count :]


def join(rng, content):
    other = whole(*FORMATS[rng.integers(len(FORMATS))])
    return content + (content if rng.integers(2) else other)


def id3(rng, content):
    size = int(rng.integers(0, 200))
    return b"ID3\3\0\0" + bytes([0, 0, size >> 7, size & 127]) + rng.bytes(size) + content


def tag_behind(rng, content):
    return content + b"TAG" + rng.bytes(125)


DAMAGES = [
    *(cut, cut_front, flip_in_header, flip_anywhere, extreme_number),
    *(remove, insert, zeros, join, id3, tag_behind),
]


def damaged(rng, content):
    for _ in range(rng.integers(1, 4)):
        content = DAMAGES[rng.integers(len(DAMAGES))](rng, content)
    return content


def outcome(read):
    """What reading gives: the number of samples, or None for an InputError. Anything else is a failure."""
    try:
        return read()
    except InputError as error:
        assert str(error)
        return None


def check(path, content):
    """All ways of reading agree."""
    path.write_bytes(content)
    header = read_header(path)
    frames = None if isinstance(header, Fault) else header.frames
    length = outcome(lambda: len(read_audio(path)[0]))
    from_bytes = outcome(lambda: len(read_audio_of(content)))
    assert not length or length == frames, "the header promised another number of samples"
    assert from_bytes in (length, None) or not length, "the bytes gave another number of samples than the file"
    if length:
        middle = length // 2
        assert outcome(lambda: len(read_audio(path, middle, length - middle)[0])) in (length - middle, None)


def read_audio_of(content):
    """The samples that separation would take; those that are no numbers count, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of numbers that overflow
        recording = Recording(content)
        blocks = list(recording._blocks(1000))
    return np.concatenate(blocks)


@pytest.mark.parametrize("container, subtype", FORMATS)
def test_samples_or_an_input_error(tmp_path, container, subtype):
    content = whole(container, subtype)
    seeds = range(CASES) if not SECONDS else iter(int, 1)
    end = time.monotonic() + SECONDS / len(FORMATS)
    for number, _ in enumerate(seeds):
        if SECONDS and time.monotonic() > end:
            break
        case = damaged(np.random.default_rng([FORMATS.index((container, subtype)), number]), content)
        try:
            check(tmp_path / "case", case)
        except BaseException:
            (tmp_path / f"failed_{number}").write_bytes(case)
            raise


@pytest.mark.parametrize("container, subtype", FORMATS)
def test_whole_files(tmp_path, container, subtype):
    """Without damage all is read: what the others are compared with."""
    check(tmp_path / "whole", whole(container, subtype))
    assert len(read_audio(tmp_path / "whole")[0]) >= FRAMES
