"""Separating recordings with a trained model."""

from pathlib import Path

import torch
from speechbrain.inference.interfaces import Pretrained
from torchaudio.functional import resample

from mossformer_sb.dataio import read_audio, write_audio
from mossformer_sb.errors import InputError
from mossformer_sb.levels import mixture_gain
from mossformer_sb.separator import separate


class MossFormerSeparation(Pretrained):
    """A trained separator, ready to use.

    .. warning:: A model's ``hyperparams.yaml`` is a program: load only what you trust.

    Example
    -------
    >>> from mossformer_sb import MossFormerSeparator
    >>> from mossformer_sb.export import export
    >>> separator = MossFormerSeparator.from_size("mini")
    >>> folder = export(getfixture("tmp_path") / "model", dict(separator.named_children()), sample_rate=8000)
    >>> model = MossFormerSeparation.from_hparams(source=folder)
    >>> model.separate_batch(torch.randn(2, 4000)).shape
    torch.Size([2, 4000, 2])
    """

    MODULES_NEEDED = ["encoder", "masknet", "decoder"]
    HPARAMS_NEEDED = ["sample_rate", "num_spks"]

    @classmethod
    def from_hparams(cls, source, hparams_file="hyperparams.yaml", **kwargs):
        """Load an exported model.

        Arguments
        ---------
        source : str or Path
            A local folder, or a model hub's id.
        hparams_file : str
            Name of the YAML file in it.
        **kwargs
            As for SpeechBrain's ``Pretrained.from_hparams``; ``run_opts={"device": "cuda"}``, for instance.

        Returns
        -------
        MossFormerSeparation

        Raises
        ------
        InputError
            If a local folder holds no exported model.
        """
        folder = Path(source)
        if folder.is_dir() and not (folder / hparams_file).is_file():
            raise InputError(
                f"{folder}: holds no {hparams_file}, so it is no exported model. Training writes one to its "
                f"export_folder, by default <output_folder>/export."
            )
        return super().from_hparams(source=str(source), hparams_file=hparams_file, **kwargs)

    def separate_batch(self, mix, lengths=None):
        """Separate a batch of mixtures at the model's sample rate.

        Arguments
        ---------
        mix : torch.Tensor
            [B, T].
        lengths : torch.Tensor, optional
            [B], int64, samples of each item of a padded batch. Default: all T.

        Returns
        -------
        torch.Tensor
            [B, T, S], on the model's device, as the network gives them: their level is arbitrary.

        Raises
        ------
        InputError
            If a shape or a length is wrong.
        """
        with torch.no_grad(), self.inference_ctx:
            return separate(
                self.mods.encoder, self.mods.masknet, self.mods.decoder, mix.to(self.device), lengths=lengths
            )

    def separate_file(self, path, output_folder=None):
        """Separate a recording.

        Several channels are averaged to one. Another sample rate than the model's is converted, and converted back
        afterwards. One common gain fits the estimates' sum to the recording, so that the speakers keep their relative
        levels.

        Arguments
        ---------
        path : str or Path
            An audio file, of any rate and any format that libsndfile reads.
        output_folder : str or Path, optional
            Where to write ``<name>_spk1.wav`` and so on, at the recording's rate. Default: nothing is written.

        Returns
        -------
        torch.Tensor
            [T, S], on the CPU, at the recording's rate and as long as the recording.

        Raises
        ------
        InputError
            If the file can't be read, or is too short.
        """
        samples, file_rate = read_audio(path)
        recording = torch.from_numpy(samples)
        if recording.dim() == 2:
            recording = recording.mean(1)
        model_rate = self.hparams.sample_rate
        mixture = resample(recording, file_rate, model_rate)
        shortest = self.mods.encoder.conv1d.kernel_size[0]
        if len(mixture) < shortest:
            raise InputError(
                f"{path}: has {len(mixture)} samples at the model's {model_rate} Hz; it takes at least {shortest}."
            )
        estimates = self.separate_batch(mixture[None])[0].float().cpu()
        estimates = estimates * mixture_gain(estimates, mixture)
        estimates = resample(estimates.T, model_rate, file_rate).T[: len(recording)]
        if output_folder is not None:
            self._write(Path(output_folder), Path(path).stem, estimates, file_rate)
        return estimates

    def _write(self, folder, stem, estimates, sample_rate):
        folder.mkdir(parents=True, exist_ok=True)
        for number, estimate in enumerate(estimates.unbind(1), start=1):
            write_audio(folder / f"{stem}_spk{number}.wav", estimate, sample_rate)

    def forward(self, mix, lengths=None):
        """As `separate_batch`."""
        return self.separate_batch(mix, lengths)
