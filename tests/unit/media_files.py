"""Small files of phones and films, made with PyAV."""

import av
import numpy as np

# Name, FFmpeg's container and codec, rate in Hz, and more arguments of `write_media`.
KINDS = {
    "a.m4a": ("ipod", "aac", 16000, {}),
    "faststart.m4a": ("ipod", "aac", 16000, {"options": {"movflags": "faststart"}}),
    "film.mp4": ("mp4", "aac", 44100, {"film": True}),
    "film.mov": ("mov", "pcm_s16le", 16000, {"film": True}),
    "a.webm": ("webm", "libopus", 48000, {}),
    "film.mkv": ("matroska", "aac", 44100, {"film": True}),
    "a.amr": ("amr", "libopencore_amrnb", 8000, {"bit_rate": 12200}),
    "a.3gp": ("3gp", "libopencore_amrnb", 8000, {"bit_rate": 12200}),
    "a.aac": ("adts", "aac", 16000, {}),
    "film.avi": ("avi", "mp2", 16000, {"film": True}),
    "a.flv": ("flv", "aac", 44100, {}),
    "a.wma": ("asf", "wmav2", 44100, {"bit_rate": 64000}),
    "a.wv": ("wv", "wavpack", 16000, {}),
    "a.tta": ("tta", "tta", 16000, {}),
}


def signal(rate, seconds=2.0):
    """A tone that goes up from 200 to 1200 Hz, swells and fades, [T]."""
    time = np.arange(round(rate * seconds)) / rate
    phase = 2 * np.pi * (200 * time + 500 / seconds * time**2)
    return (0.3 * np.sin(phase) * np.hanning(len(time))).astype(np.float32)


def write_media(path, container, codec, rate, film=False, streams=1, bit_rate=None, options=None, delay=0.0):
    """Write `signal` into a container, with pictures if it is a film; returns the path."""
    samples = signal(rate)
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        pictures = output.add_stream("mpeg4", rate=25) if film else None
        sounds = [output.add_stream(codec, rate=rate, layout="mono") for _ in range(streams)]
        if film:
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            for number in range(50):
                frame = av.VideoFrame(32, 32, "yuv420p")
                frame.pts = number
                output.mux(pictures.encode(frame))
            output.mux(pictures.encode(None))
        for sound in sounds:
            if bit_rate:
                sound.bit_rate = bit_rate
            _encode(output, sound, samples, rate, delay)
    return path


def _encode(output, sound, samples, rate, delay):
    size = sound.codec_context.frame_size or None
    convert = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate, frame_size=size)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, round(delay * rate)
    for converted in [*convert.resample(frame), *convert.resample(None)]:
        output.mux(sound.encode(converted))
    output.mux(sound.encode(None))
