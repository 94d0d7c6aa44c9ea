"""The steps of SpeechBrain's WHAM! recipe for a training example with dynamic mixing, for comparison.

SpeechBrain's recipe divides them between a data pipeline and the training loop. The pipeline finds files by glob. For
every example it reads the headers of the files for their lengths, and again for the crop, loads the files, scales them
to levels with `rescale`, and adds a whole recording of noise. The loop discards that mixture, changes each speaker's
speed with `SpeedPerturb`, and mixes again with the noise at the speakers' mean amplitude. It crops last.
"""

import glob
import os
import random

import numpy as np
import torch
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio import audio_io
from speechbrain.processing.signal_processing import rescale

SPEEDS = (95, 100, 105)  # percent


class SpeechBrainMixing:
    """Draws examples as described above; indices have no effect, as in SpeechBrain.

    Arguments
    ---------
    speech_folder : str
        ``SPEAKER/*.wav``; the first three letters of a name are the speaker, as in WSJ0.
    noise_folder : str
        ``*.wav``.
    sample_rate : int
        Hz, of all files.
    segment : float
        Seconds of an example.
    """

    def __init__(self, speech_folder, noise_folder, sample_rate, segment):
        self.utterances = {}
        for path in glob.glob(os.path.join(speech_folder, "**/*.wav"), recursive=True):
            if audio_io.info(path).sample_rate != sample_rate:
                raise ValueError(f"{path}: not {sample_rate} Hz")
            self.utterances.setdefault(os.path.basename(path)[:3], []).append(path)
        counts = np.array([len(paths) for paths in self.utterances.values()])
        self.speakers, self.weights = list(self.utterances), counts / counts.sum()
        self.noises = glob.glob(os.path.join(noise_folder, "*.wav"))
        self.length = round(segment * sample_rate)
        self.speed_perturb = SpeedPerturb(sample_rate, speeds=list(SPEEDS))

    def __getitem__(self, index):
        sources, noise = self._pipeline()
        return self._loop(sources, noise)

    def _pipeline(self):
        """Output of the data pipeline: sources [S, T] and noise [T']; its mixture is not used afterwards."""
        speakers = np.random.choice(self.speakers, 2, replace=False, p=self.weights)
        noise = audio_io.load(np.random.choice(self.noises, 1, replace=False)[0])[0].squeeze()
        paths = [np.random.choice(self.utterances[speaker], 1, False)[0] for speaker in speakers]
        shortest = min(audio_io.info(path).num_frames for path in paths)
        sources, first = [], 0.0
        for number, path in enumerate(paths):
            total = audio_io.info(path).num_frames
            start = np.random.randint(0, total - shortest) if total > shortest else 0
            signal = audio_io.load(path, frame_offset=start, num_frames=shortest)[0][0]
            drawn = random.gauss(-27.43, 2.57) if number == 0 else first + random.gauss(-2.51, 2.66)
            level = float(np.clip(drawn, -45, 0))
            first = first or level
            sources.append(rescale(signal, torch.tensor(len(signal)), level, scale="dB"))
        sources = torch.stack(sources)
        length = min(len(noise), shortest)
        mixture = sources.sum(0)[:length] + noise[:length]
        peak = max(mixture.abs().max().item(), *(source.abs().max().item() for source in sources))
        sources = sources * (0.9 / peak)
        return sources, noise * (sources.abs().mean() / noise.abs().mean())

    def _loop(self, sources, noise):
        """The training loop's processing of it: mixture [T] and sources [T, S]."""
        perturbed = [self.speed_perturb(source[None])[0] for source in sources]
        length = min(len(noise), *(len(source) for source in perturbed))
        sources = torch.stack([source[:length] for source in perturbed], dim=-1)
        mixture = sources.sum(-1) + noise[:length]
        start = np.random.randint(0, 1 + max(0, length - self.length))
        return mixture[start : start + self.length], sources[start : start + self.length]
