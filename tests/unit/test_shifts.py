"""Averaging the estimates for delayed copies of a mixture."""

import json
import types

import numpy as np
import pytest
import soundfile
import torch

from mossformer_sb import InputError, MossFormerSeparator, build_encoder, build_masknet
from mossformer_sb.cli import main
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.inference.shifts import delays, mean_of_delayed
from mossformer_sb.network.baselines import ConvTasNetMaskNet
from mossformer_sb.sharing.folder import export

RATE = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    modules = dict(MossFormerSeparator.from_size("mini").named_children())
    return export(tmp_path_factory.mktemp("export") / "model", modules, RATE, settings={"shifts": 3})


@pytest.fixture
def model(folder):
    return MossFormerSeparation.from_hparams(folder, device="cpu")


class Halves(torch.nn.Module):
    """x/2 and -x/2, whose order is another one for each item and length, with an error that depends on the delay."""

    def __init__(self, error):
        super().__init__()
        self.error, self.seen = error, []

    def forward(self, x, lengths):
        self.seen.append((x.shape[1], None if lengths is None else lengths.tolist()))
        estimates = torch.stack([x, -x], dim=-1) / 2
        swapped = (torch.arange(len(x)) + x.shape[1]) % 2 == 1
        estimates[swapped] = estimates[swapped].flip(-1)
        return estimates + self.error * torch.randn_like(estimates)


class TestMean:
    @pytest.mark.parametrize("lengths", [None, torch.tensor([900, 1000, 500])])
    def test_permutes_each_item_and_keeps_the_time(self, lengths):
        network, mixture = Halves(error=0), torch.randn(3, 1000)
        found = mean_of_delayed(network, mixture, lengths, [0, 1, 7, 10])
        expected = torch.stack([mixture, -mixture], dim=-1) / 2
        expected[1] = expected[1].flip(-1)
        torch.testing.assert_close(found, expected)
        assert [length for length, _ in network.seen] == [1000, 1001, 1007, 1010]
        if lengths is not None:
            assert [given for _, given in network.seen] == [(lengths + k).tolist() for k in (0, 1, 7, 10)]

    def test_an_error_that_keeps_its_sign_cancels(self):
        """As what a ReLU makes of both signs, which every second copy has the other way round."""
        mixture = torch.randn(2, 500)

        def network(x, lengths):
            return torch.stack([x + 0.1 * x.abs(), x.abs() / 2], dim=-1)

        found = mean_of_delayed(network, mixture, None, [0, 0])
        torch.testing.assert_close(found, torch.stack([mixture, 0 * mixture], dim=-1))

    def test_halves_an_independent_error_with_four(self):
        torch.manual_seed(0)
        mixture = torch.randn(1, 8000)
        errors = [
            (mean_of_delayed(Halves(error=0.1), mixture, None, range(count))[..., 0] - mixture / 2).std().item()
            for count in (1, 4)
        ]
        assert errors[1] / errors[0] == pytest.approx(0.5, rel=0.05)

    def test_with_half_precision_and_five_speakers(self):
        mixture = torch.randn(2, 500)
        weights = torch.linspace(-1, 1, 5)

        def network(x, lengths):
            return (x[..., None] * weights.roll(x.shape[1])).bfloat16()

        found = mean_of_delayed(network, mixture, None, [0, 3, 4])
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), network(mixture, None).float(), rtol=0.02, atol=0.02)

    def test_the_order_of_loud_speakers_in_half_precision(self):
        """Sums over a minute exceed its range."""

        def network(x, lengths):
            above, below = x.clamp(min=0), x.clamp(max=0)
            estimates = torch.stack([above + 0.3 * below, below + 0.3 * above], -1)
            return (estimates if x.shape[1] % 2 == 0 else estimates.flip(-1)).half()

        mixture = 0.5 * torch.randn(1, 500_000)
        with torch.autocast("cpu", dtype=torch.float16):
            found = mean_of_delayed(network, mixture, None, [0, 2, 1])
        torch.testing.assert_close(found.float(), network(mixture, None).float(), rtol=0.01, atol=0.01)

    def test_five_speakers_in_autocast(self, tmp_path):
        modules = dict(MossFormerSeparator.from_size("mini", num_spks=5).named_children())
        folder = export(tmp_path / "model", modules, RATE)
        model = MossFormerSeparation.from_hparams(folder, run_opts={"precision": "bf16"}, device="cpu", shifts=2)
        assert model.separate_batch(torch.randn(2, 4000)).isfinite().all()


class TestDelays:
    @pytest.mark.parametrize("size", ["S", "mini", "small", "2mini"])
    @pytest.mark.parametrize("shifts", [2, 3, 4, 8])
    def test_differ_within_a_hop_and_within_a_group(self, size, shifts):
        encoder, masknet = build_encoder(size), build_masknet(size)
        hop, group_size = encoder.conv1d.stride[0], masknet.config["group_size"]
        frames, samples = zip(*(divmod(delay, hop) for delay in delays(shifts, encoder, masknet)), strict=True)
        np.testing.assert_allclose(frames, np.arange(shifts) * group_size / shifts, atol=0.5)
        np.testing.assert_allclose(samples, np.arange(shifts) * hop / shifts, atol=0.5)

    def test_do_not_grow_with_any_group(self):
        """As of a stranger's model."""
        masknet = types.SimpleNamespace(config={"group_size": 2**20})
        assert max(delays(64, build_encoder("small"), masknet)) < 5 * RATE

    def test_of_a_network_without_groups(self):
        masknet = ConvTasNetMaskNet(in_channels=16)
        assert delays(2, build_encoder("mini"), masknet)[1] > 0
        assert delays(2, build_encoder("mini"), torch.nn.Identity())[1] > 0


class TestModel:
    def test_its_own_number_can_be_changed(self, folder, model):
        assert model.shifts == 3
        model.shifts = 2
        assert model.shifts == 2
        assert MossFormerSeparation.from_hparams(folder, device="cpu", shifts=5).shifts == 5
        assert MossFormerSeparation.from_hparams(folder, device="cpu", overrides={"shifts": 6}).shifts == 6
        assert MossFormerSeparation.from_hparams(folder, device="cpu", trust=True).shifts == 3
        assert MossFormerSeparation.from_hparams(folder, device="cpu", trust=True, shifts=1).shifts == 1
        assert MossFormerSeparator.from_pretrained(folder).shifts == 3
        assert json.loads((folder / "config.json").read_text())["shifts"] == 3

    def test_has_one_unless_it_says_so(self, tmp_path):
        separator = MossFormerSeparator.from_size("mini")
        separator.save_pretrained(tmp_path / "hub")
        assert MossFormerSeparation.from_hparams(tmp_path / "hub", device="cpu").shifts == 1
        assert "shifts" not in json.loads((tmp_path / "hub" / "config.json").read_text())

    @pytest.mark.parametrize("shifts", [0, -1, 65, 2.0, "4", True])
    def test_refuses_what_is_no_number(self, folder, model, shifts):
        with pytest.raises(InputError, match="shifts must be a whole number from 1"):
            model.shifts = shifts
        with pytest.raises(InputError, match="shifts must be a whole number from 1"):
            MossFormerSeparation.from_hparams(folder, device="cpu", shifts=shifts)

    def test_one_is_the_network_alone(self, folder, model):
        mixture = torch.randn(2, 4000)
        model.shifts = 1
        with torch.no_grad():
            expected = MossFormerSeparator.from_pretrained(folder)(mixture)
        assert torch.equal(model.separate_batch(mixture), expected)

    def test_more_are_the_mean(self, folder, model):
        mixture, separator = torch.randn(1, 4000), MossFormerSeparator.from_pretrained(folder)
        total = 0
        with torch.no_grad():
            first = separator(mixture)
            for delay, sign in zip(delays(3, separator.encoder, separator.masknet), (1, -1, 1), strict=True):
                estimates = sign * separator(torch.nn.functional.pad(sign * mixture, (delay, 0)))[:, delay:]
                straight, swapped = ((first * x).sum() for x in (estimates, estimates.flip(-1)))
                total = total + (estimates if straight >= swapped else estimates.flip(-1))
        torch.testing.assert_close(model.separate_batch(mixture), total / 3)
        assert not torch.allclose(total / 3, first, rtol=0.01)

    def test_of_a_batch_of_lengths_equal_those_alone(self, model):
        signals = [np.random.randn(count).astype(np.float32) for count in (4000, 2345, 3999)]
        for found, signal in zip(model.separate_signals(signals), signals, strict=True):
            np.testing.assert_allclose(found, model.separate_signals([signal])[0], rtol=1e-4, atol=1e-5)


class TestCommands:
    def test_separate(self, folder, model, tmp_path):
        soundfile.write(tmp_path / "talk.wav", 0.1 * np.random.randn(4000), RATE)
        for shifts, options in ((3, []), (1, ["--shifts", "1"])):
            model.shifts = shifts
            expected = model.separate(tmp_path / "talk.wav")
            arguments = [tmp_path / "talk.wav", "--model", folder, "--output_folder", tmp_path / str(shifts)]
            assert main(["separate", *map(str, arguments), *options, "--device", "cpu", "--quiet"]) == 0
            found = soundfile.read(tmp_path / str(shifts) / "talk_spk1.wav", dtype="float32")[0]
            np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5, atol=1e-7)

    def test_zero_shifts(self, folder, tmp_path, capsys):
        soundfile.write(tmp_path / "talk.wav", 0.1 * np.random.randn(4000), RATE)
        arguments = ["separate", str(tmp_path / "talk.wav"), "--model", str(folder), "--shifts", "0"]
        assert main([*arguments, "--output_folder", str(tmp_path / "out")]) != 0
        assert "shifts must be a whole number from 1" in capsys.readouterr().err
