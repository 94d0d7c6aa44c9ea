"""Uses of the mask net in other training code."""

import copy
import importlib
import io

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.models.dual_path import Decoder, Dual_Path_Model, Encoder, SBTransformerBlock
from speechbrain.utils.checkpoints import Checkpointer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from mossformer_sb import InputError, MossFormerMaskNet, MossFormerSeparator
from mossformer_sb.network.checks import DUAL_PATH_ARGUMENTS
from mossformer_sb.network.separator import separate

N, D, GROUP = 24, 32, 16


def make_masknet(**arguments):
    """A small mask net that gives the same masks each time."""
    sizes = {"num_blocks": 2, "group_size": GROUP, "query_key_dim": 40, "dropout": 0.0}
    return MossFormerMaskNet(N, D, **{**sizes, **arguments})


@pytest.fixture
def masknet():
    return make_masknet()


@pytest.fixture
def encoded():
    return torch.rand(2, N, 3 * GROUP + 5)


# ---- copies and checkpoints


def save_whole(network, tmp_path):
    torch.save(network, tmp_path / "network.pt")
    return torch.load(tmp_path / "network.pt", weights_only=False)


def pickle_in_memory(network, tmp_path):
    stream = io.BytesIO()
    torch.save(network, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=False)


def checkpoint(network, tmp_path):
    Checkpointer(tmp_path, {"masknet": network}).save_checkpoint()
    other = make_masknet()
    Checkpointer(tmp_path, {"masknet": other}).recover_if_possible()
    return other


def build_without_memory(network, tmp_path):
    with torch.device("meta"):
        other = make_masknet()
    other.to_empty(device="cpu").load_state_dict(network.state_dict())
    return other


def to_meta_and_back(network, tmp_path):
    other = copy.deepcopy(network).to("meta").to_empty(device="cpu")
    other.load_state_dict(network.state_dict())
    return other


@pytest.mark.parametrize(
    "copied",
    [
        lambda network, tmp_path: copy.deepcopy(network),
        save_whole,
        pickle_in_memory,
        checkpoint,
        build_without_memory,
        to_meta_and_back,
        lambda network, tmp_path: network.double().float(),
    ],
    ids=["deepcopy", "save", "pickle", "checkpointer", "to_empty", "meta", "double"],
)
def test_a_copy_gives_the_same_masks(masknet, encoded, tmp_path, copied):
    expected = masknet(encoded)
    assert torch.equal(copied(masknet, tmp_path)(encoded), expected)


def test_a_copy_is_independent(masknet, encoded):
    expected = masknet(encoded)
    other = copy.deepcopy(masknet)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(other(encoded), expected)
    assert torch.equal(masknet(encoded), expected)


def test_half_precision_and_back_rounds_the_weights_alone(masknet, encoded):
    """Positions and the skip around the filter are constants, which come back exactly."""
    expected = copy.deepcopy(masknet)
    expected.load_state_dict({name: value.bfloat16().float() for name, value in masknet.state_dict().items()})
    assert torch.equal(masknet.bfloat16().float()(encoded), expected(encoded))


def test_shapes_without_memory(masknet, encoded):
    masks = masknet.to("meta")(encoded.to("meta"))
    assert masks.shape == (2, 2, N, encoded.shape[2]) and masks.is_meta


# ---- reset_parameters over everything


def reset_recursively(layer):
    """As SpeechBrain's recipes do before training, which comes by each layer once for every path to it."""
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
    for inner in layer.modules():
        if inner is not layer:
            reset_recursively(inner)


def test_reset_parameters_once_is_a_new_network(masknet):
    torch.manual_seed(5)
    expected = make_masknet().state_dict()
    torch.manual_seed(5)
    for layer in masknet.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    torch.testing.assert_close(masknet.state_dict(), expected, rtol=0, atol=0)


def test_reset_parameters_over_and_over_draws_from_the_same_distributions(masknet):
    new = {name: parameter.detach().clone() for name, parameter in masknet.named_parameters()}
    with torch.no_grad():
        for parameter in masknet.parameters():
            parameter.mul_(50).add_(3)
    reset_recursively(masknet)
    for name, parameter in masknet.named_parameters():
        if new[name].numel() == 1 or new[name].std() == 0:  # gains, scales, shifts
            assert torch.equal(parameter, new[name]), name
        else:
            assert not torch.equal(parameter, new[name]), name
            assert parameter.std().item() == pytest.approx(new[name].std().item(), rel=0.4), name
            assert abs(parameter.mean()) < 0.6 * new[name].std(), name


# ---- several processors


@pytest.fixture
def on_one_processor(monkeypatch):
    """Let `torch.nn.parallel.replicate` make its replicas without any GPU, all of them here."""

    def broadcast(tensors, devices, detach=False):
        return [[tensor.detach() if detach else tensor * 1 for tensor in tensors] for _ in devices]

    module = importlib.import_module("torch.nn.parallel.replicate")  # whose function has its name
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", broadcast)


def replicas(network):
    return torch.nn.parallel.replicate(network, [0, 0])


@pytest.mark.parametrize("part", [make_masknet, lambda: MossFormerSeparator.from_size("mini", dropout=0.0)])
def test_replicas_of_data_parallel_compute_the_same(on_one_processor, part):
    network = part()
    inputs = torch.rand(2, N, 40) if isinstance(network, MossFormerMaskNet) else torch.randn(2, 1600)
    expected = [network(one) for one in inputs.split(1)]
    sum(output.square().sum() for output in expected).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    outputs = [replica(one) for replica, one in zip(replicas(network), inputs.split(1), strict=True)]
    sum(output.square().sum() for output in outputs).backward()
    torch.testing.assert_close(outputs, expected)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


@pytest.mark.parametrize("num_spks", [1, 2])
def test_masks_that_data_parallel_joined_along_the_speakers_are_refused(num_spks):
    """With one speaker and two GPUs they would fit the mixtures, and be another mixture's."""
    masknet = make_masknet(num_spks=num_spks)

    class Gathered(torch.nn.Module):
        def forward(self, x):
            return torch.cat([masknet(one) for one in x.chunk(2)])

    encoder = Encoder(kernel_size=16, out_channels=N)
    decoder = Decoder(in_channels=N, out_channels=1, kernel_size=16, stride=8, bias=False)
    message = rf"shape \[{2 * num_spks}, 1, {N}, 19\].*needed \[speakers, 2, {N}, 19\].*DataParallel.*use torchrun"
    with pytest.raises(InputError, match=message):
        separate(encoder, Gathered(), decoder, torch.randn(2, 160))


def two_ranks(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        network, encoded = make_masknet(), torch.rand(2, N, 40)
        lengths = torch.tensor([40, 33])
        network(encoded, lengths).square().sum().backward()
        expected = {name: parameter.grad / 2 for name, parameter in network.named_parameters()}
        network.zero_grad()
        wrapped = DistributedDataParallel(network)
        wrapped(encoded[rank : rank + 1], lengths=lengths[rank : rank + 1]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_share_the_gradients_of_a_batch(tmp_path):
    torch.multiprocessing.start_processes(two_ranks, (tmp_path,), nprocs=2, start_method="forkserver")


# ---- counting


def expected_operations(num_frames, num_blocks=2, num_spks=2, query_key_dim=40, taps=17):
    """Multiply-adds of all products in the paper's equations, each counted as two."""
    filters = taps * (4 * D + query_key_dim + D)
    linears = D * 4 * D + D * query_key_dim + 2 * D * D
    attention = GROUP * (query_key_dim + 4 * D) + 2 * query_key_dim * 4 * D
    ends = N * D + D * num_spks * D + num_spks * (2 * D * D + D * N)
    return 2 * num_frames * (num_blocks * (filters + linears + attention) + ends)


def test_the_flop_counter_finds_every_product(masknet):
    with FlopCounterMode(display=False) as counter:
        masknet(torch.rand(1, N, 4 * GROUP))
    assert counter.get_total_flops() == expected_operations(4 * GROUP)


def test_the_flop_counter_needs_no_memory(masknet):
    with FlopCounterMode(display=False) as counter:
        masknet.to("meta")(torch.rand(1, N, 4 * GROUP, device="meta"))
    assert counter.get_total_flops() == expected_operations(4 * GROUP)


# ---- arguments of another mask net


STOCK = {
    "intra_model": None,
    "inter_model": None,
    "num_layers": 2,
    "K": 250,
    "skip_around_intra": True,
    "linear_layer_after_inter_intra": False,
    "use_global_pos_enc": False,
    "max_length": 20000,
}


def test_every_argument_of_dual_path_model_is_known():
    """Those that are not refused by name are ours too, with the same meaning."""
    transformer = SBTransformerBlock(1, 8, nhead=1, d_ffn=8)
    model = Dual_Path_Model(8, 8, **{**STOCK, "intra_model": transformer, "inter_model": transformer})
    assert model.num_spks == 2
    parameters = set(Dual_Path_Model.__init__.__code__.co_varnames[: Dual_Path_Model.__init__.__code__.co_argcount])
    assert parameters - {"self"} == {"in_channels", "out_channels", "num_spks", "norm", *DUAL_PATH_ARGUMENTS}


@pytest.mark.parametrize("key", DUAL_PATH_ARGUMENTS)
def test_each_argument_of_dual_path_model_is_refused(key):
    with pytest.raises(InputError, match=f"does not take {key}, which Dual_Path_Model takes: delete this.*num_blocks"):
        make_masknet(**{key: STOCK[key]})


def test_one_message_for_all_of_them_from_a_yaml():
    """A stock node with nothing but its class changed."""
    lines = ["m: !new:mossformer_sb.MossFormerMaskNet", "in_channels: 8", "out_channels: 8", "norm: ln", "num_spks: 2"]
    lines += ["num_layers: 2", "K: 250", "skip_around_intra: True"]
    with pytest.raises(InputError, match="does not take num_layers, K, skip_around_intra, which"):
        load_hyperpyyaml("\n    ".join(lines))


def test_networks_given_by_position_are_named_and_not_printed():
    transformer = SBTransformerBlock(1, 8, nhead=1, d_ffn=8)
    with pytest.raises(InputError, match="num_blocks must be a whole number of at least 1; found SBTransformerBlock"):
        MossFormerMaskNet(8, 8, transformer, transformer)


def test_a_mistyped_argument_lists_the_known_ones():
    with pytest.raises(InputError, match="does not take drop_out: it takes in_channels, out_channels, num_blocks"):
        make_masknet(drop_out=0.1)


@pytest.mark.parametrize("norm", ["gln", "cln", "bn"])
def test_the_other_norms_of_dual_path_model(norm):
    with pytest.raises(InputError, match=f"norm '{norm}' is not known.*'ln'"):
        make_masknet(norm=norm)


# ---- a Brain of one's own, written as SpeechBrain's recipes are


class OwnBrain(sb.Brain):
    """Networks called through hparams, and SpeechBrain's loss."""

    losses = ()

    def compute_forward(self, batch, stage):
        mixture, _ = batch
        encoded = self.hparams.Encoder(mixture)
        masks = self.hparams.MaskNet(encoded)
        estimates = [self.hparams.Decoder(encoded * mask) for mask in masks]
        return torch.stack(estimates, dim=-1)

    def compute_objectives(self, predictions, batch, stage):
        _, sources = batch
        loss = sb.nnet.losses.get_si_snr_with_pitwrapper(sources, predictions).mean()
        self.losses = (*self.losses, loss.item())
        return loss


def low_and_high(num_batches=25, batch_size=2, num_samples=800):
    """One speaker is a low hum, the other a high one, each with its own pitch."""
    time = torch.arange(num_samples) / 8000
    batches = []
    for _ in range(num_batches):
        pitch = torch.tensor([300.0, 2000.0]) + 200 * torch.rand(batch_size, 1, 2)
        sources = torch.sin(2 * torch.pi * time[:, None] * pitch)  # [B, T, S]
        batches.append((sources.sum(-1), sources))
    return torch.utils.data.DataLoader(batches, batch_size=None)


def own_brain(run_opts=None, **hparams):
    networks = {
        "Encoder": Encoder(kernel_size=16, out_channels=N),
        "MaskNet": make_masknet(),
        "Decoder": Decoder(in_channels=N, out_channels=1, kernel_size=16, stride=8, bias=False),
    }
    modules = {name.lower(): network for name, network in networks.items()}
    options = {"device": "cpu", "noprogressbar": True, **(run_opts or {})}
    brain = OwnBrain(modules, lambda p: torch.optim.Adam(p, 2e-3), {**networks, **hparams}, options)
    for module in brain.modules.values():
        reset_recursively(module)
    return brain


def test_a_custom_brain_trains_it():
    brain = own_brain()
    before = copy.deepcopy(brain.modules.masknet.state_dict())
    brain.fit(range(2), low_and_high())
    first, last = (torch.tensor(part).mean() for part in (brain.losses[:5], brain.losses[-5:]))
    assert last < first - 5  # dB
    assert all(not torch.equal(value, before[name]) for name, value in brain.modules.masknet.state_dict().items())


def test_speechbrains_profiler_sees_it(tmp_path):
    options = {"profile_training": True, "profile_warmup": 1, "profile_steps": 2}
    with pytest.raises(SystemExit):  # SpeechBrain's way to end when the profiler has enough
        own_brain(options, output_folder=str(tmp_path)).fit(range(1), low_and_high(num_batches=5))
    (trace,) = (tmp_path / "profiler_logs").iterdir()
    text = trace.read_text()
    assert "ConvModuleFunction" in text
    assert "aten::addmm" in text or "mkldnn::_linear_pointwise" in text  # who multiplies: see fast/matmul.py


def test_speechbrain_counts_its_parameters(caplog):
    caplog.set_level("INFO", logger="speechbrain.core")
    brain = own_brain()
    thousands = sum(parameter.numel() for parameter in brain.modules.parameters()) / 1000
    assert f"Number of Trainable Parameters: {thousands:.1f}k\n" in caplog.text
