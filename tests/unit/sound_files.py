"""Contents of sound files, whole and in the odd states that recorders, copies and joining leave them in."""

import io
import struct

import numpy as np
import soundfile

RATE = 8000


def noise(num_samples, channels=1):
    return 0.1 * np.random.default_rng(0).standard_normal((num_samples, channels))


def encode(container, subtype, num_samples=12000, rate=RATE, channels=1, **options):
    """The bytes of a sound file."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", rate, channels, subtype, format=container, **options) as file:
        file.write(noise(num_samples, channels))
    return stream.getvalue()


def mp3(mode="VARIABLE", **options):
    """One that begins with silence, so that the bit rate of its first frames says little about the others."""
    rate, channels = options.get("rate", RATE), options.get("channels", 1)
    loud = noise(2 * rate, channels)
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", rate, channels, "MPEG_LAYER_III", format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(np.concatenate([1e-3 * loud, 3 * loud, 0 * loud]))
    return stream.getvalue()


def mp3_frames(content):
    """(start, stop) of each frame of an MP3 of layer III, the tag's included."""
    kbits = {
        True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }
    frames, place = [], 0
    while place + 4 <= len(content):
        version = content[place + 1] >> 3 & 3
        rate = (44100, 48000, 32000)[content[place + 2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
        bits = 1000 * kbits[version == 3][(content[place + 2] >> 4) - 1]
        stop = place + (144 if version == 3 else 72) * bits // rate + (content[place + 2] >> 1 & 1)
        frames.append((place, stop))
        place = stop
    return frames


def without_tag(content):
    """An MP3 as streaming encoders leave it: nothing says how long it is."""
    return content[mp3_frames(content)[0][1] :]


def id3v2(size=20):
    return b"ID3\3\0\0" + bytes([0, 0, size >> 7, size & 127]) + bytes(size)


ID3V1 = b"TAG" + bytes(125)


def with_wav_size(content, size, riff_size=None):
    """A WAV whose header has another size of its audio."""
    place = content.index(b"data") + 4
    content = content[:place] + struct.pack("<I", size % 2**32) + content[place + 4 :]
    return content if riff_size is None else content[:4] + struct.pack("<I", riff_size) + content[8:]


def with_flac_total(content, total):
    """A FLAC whose header has another number of samples."""
    first = bytes([content[21] & 0xF0 | total >> 32])
    return content[:21] + first + struct.pack(">I", total % 2**32) + content[26:]


def ogg_pages(content):
    """Where the pages of an Ogg file begin."""
    return [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
