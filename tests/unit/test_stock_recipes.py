"""The files for SpeechBrain's own recipes, and that its way to read manifests reads ours."""

import re
from pathlib import Path

import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.dataio.dataio import read_audio
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset, add_dynamic_item, set_output_keys
from speechbrain.nnet.schedulers import ReduceLROnPlateau

from data_prep.corpora.librimix import prepare_librimix
from data_prep.corpora.wham import prepare_wham
from data_prep.corpora.whamr import prepare_whamr
from data_prep.corpora.wsj0mix import prepare_wsj0mix
from mossformer_sb import MossFormerMaskNet
from mossformer_sb.errors import InputError
from mossformer_sb.inference.separation import MossFormerSeparation
from mossformer_sb.training.export import export_training
from tests.unit.trees import write_librimix, write_wham, write_whamr, write_wsj0mix

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
TUTORIAL = RECIPES.parent / "docs" / "stock_recipes.md"

# What the recipes' train.py reads by name, in SpeechBrain's repository at 9c826ef (April 2026).
READ = set(
    """data_folder output_folder save_folder train_data valid_data test_data skip_prep num_spks sample_rate
    dynamic_mixing base_folder_dm save_audio use_speedperturb speed_perturb use_rand_shift min_shift max_shift
    use_wavedrop drop_freq drop_chunk limit_training_signal_len training_signal_len clip_grad_norm loss_upper_lim
    threshold_byloss threshold Encoder MaskNet Decoder loss optimizer lr_scheduler epoch_counter modules checkpointer
    train_logger dataloader_opts""".split()
)
READ_IN = {"WSJ0Mix": {"n_audio_to_save"}, "LibriMix": {"use_wham_noise"}, "WHAMandWHAMR": set()}
# Names of the manifests that the recipes' preparation writes; for WHAMR!, those that ours writes.
PREPARED = {
    "mossformer": ("wsj_tr", "wsj_cv", "wsj_tt"),
    "mossformer-wham": ("whamorg_tr", "whamorg_cv", "whamorg_tt"),
    "mossformer-whamr": ("whamr_tr", "whamr_cv", "whamr_tt"),
    "mossformer-libri2mix": ("libri2mix_train-360", "libri2mix_dev", "libri2mix_test"),
    "mossformer-libri3mix": ("libri3mix_train-360", "libri3mix_dev", "libri3mix_test"),
}
PREPARED |= {name.replace("mossformer", "mossformer2"): tables for name, tables in PREPARED.items()}
TINY = {"N_encoder_out": 16, "out_channels": 16, "num_blocks": 1, "group_size": 16, "query_key_dim": 32}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


def load(path, tmp_path, **overrides):
    text = path.read_text()
    given = {"data_folder": str(tmp_path / "data"), "output_folder": str(tmp_path), **TINY, **overrides}
    if "manifest_folder: !PLACEHOLDER" in text:
        given["manifest_folder"] = str(tmp_path / "manifests")
    return load_hyperpyyaml(text, given)


def test_they_lie_where_speechbrains_do():
    assert {str(path.relative_to(RECIPES)) for path in FILES} == {
        file.format(network=network)
        for network in ("mossformer", "mossformer2")
        for file in (
            "WSJ0Mix/separation/hparams/{network}.yaml",
            "WHAMandWHAMR/separation/hparams/{network}-wham.yaml",
            "WHAMandWHAMR/separation/hparams/{network}-whamr.yaml",
            "LibriMix/separation/hparams/{network}-libri2mix.yaml",
            "LibriMix/separation/hparams/{network}-libri3mix.yaml",
        )
    }


def test_header_has_paper_command_and_result(path):
    header = path.read_text().split("\n\n")[0]
    assert "Paper:" in header and "Published:" in header and "Data:" in header
    assert f"python train.py hparams/{path.name} --data_folder" in header


def test_names_only_what_a_user_has(path):
    named = re.findall(r"!(?:new|name|apply|applyref|module):([\w]+)", path.read_text())
    assert set(named) == {"mossformer_sb", "speechbrain", "torch"}


def test_has_what_the_recipe_reads_and_nothing_without_use(path, tmp_path):
    hparams, text = load(path, tmp_path), path.read_text()
    read = READ | READ_IN[path.relative_to(RECIPES).parts[0]]
    assert read <= set(hparams)
    unused = {key for key in set(hparams) - read if f"<{key}>" not in text and not key.startswith("__")}
    assert unused == {"precision"}  # which SpeechBrain's Brain reads


def test_manifests_have_the_names_that_the_preparation_gives(path, tmp_path):
    hparams = load(path, tmp_path)
    folder = hparams["save_folder"] if not hparams["skip_prep"] else hparams["manifest_folder"]
    expected = [f"{folder}/{name}.csv" for name in PREPARED[path.stem]]
    assert [hparams[key] for key in ("train_data", "valid_data", "test_data")] == expected


def test_networks_fit_together_and_are_checkpointed(path, tmp_path):
    hparams = load(path, tmp_path)
    encoded = hparams["Encoder"](torch.randn(1, 400))
    masks = hparams["MaskNet"](encoded)
    estimates = torch.stack([hparams["Decoder"](encoded * mask) for mask in masks], dim=-1)
    assert estimates.shape == (1, 400, hparams["num_spks"])
    assert {**hparams["modules"]} == {name.lower(): hparams[name] for name in ("Encoder", "MaskNet", "Decoder")}
    recoverables = hparams["checkpointer"].recoverables
    assert {*hparams["modules"].values(), hparams["lr_scheduler"]} <= set(recoverables.values())


def test_full_size_is_the_published_one(path):
    text = path.read_text()
    values = {key: re.search(rf"^{key}: (\S+)", text, re.M)[1] for key in TINY}
    assert values == {
        "N_encoder_out": "512",
        "out_channels": "512",
        "num_blocks": "24",
        "group_size": "256",
        "query_key_dim": "128",
    }


@pytest.mark.parametrize("network", ["mossformer", "mossformer2"])
def test_three_speakers_of_wsj0(tmp_path, network):
    hparams = load(RECIPES / f"WSJ0Mix/separation/hparams/{network}.yaml", tmp_path, num_spks=3)
    assert hparams["MaskNet"].num_spks == 3


def test_only_the_recipe_that_can_perturbs_the_speed(path, tmp_path):
    hparams = load(path, tmp_path)
    assert hparams["use_speedperturb"] is (not path.stem.endswith("-whamr"))
    assert isinstance(hparams["lr_scheduler"], ReduceLROnPlateau)  # with any other the recipes stop after an epoch
    assert hparams["dataloader_opts"]["shuffle"] is True


# ---- the README's changes


def node_of(document):
    """The mask net's node as a document's diff leaves it."""
    blocks = re.findall(r"```diff\n(.*?)```", document.read_text(), re.S)
    (block,) = [block for block in blocks if "MossFormerMaskNet" in block]
    return "\n".join(line[1:] for line in block.splitlines() if line[0] in "+ ")


@pytest.mark.parametrize("document", [RECIPES / "README.md", TUTORIAL], ids=lambda path: path.name)
def test_the_documents_node_builds_a_mask_net(document):
    hparams = load_hyperpyyaml(f"num_spks: 3\nN_encoder_out: 32\nout_channels: 16\n{node_of(document)}")
    assert isinstance(hparams["MaskNet"], MossFormerMaskNet)
    assert hparams["MaskNet"](torch.rand(1, 32, 10)).shape == (3, 1, 32, 10)


@pytest.mark.parametrize("document", [RECIPES / "README.md", TUTORIAL], ids=lambda path: path.name)
def test_the_documents_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text()):
        linked = (document.parent / target[0]).resolve() if target[0] else document
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not target[1] or target[1] in anchors, target


# ---- manifests


def read_as_recipes_do(manifest, data_folder, columns):
    """The first item and the first batch, through SpeechBrain's dataset."""
    data = DynamicItemDataset.from_csv(csv_path=manifest, replacements={"data_root": data_folder})
    for column in columns:
        add_dynamic_item([data], read_audio, takes=f"{column}_wav", provides=f"{column}_sig")
    set_output_keys([data], ["id", *(f"{column}_sig" for column in columns)])
    return data[0], next(iter(make_dataloader(data, batch_size=1, num_workers=0, shuffle=False)))


CASES = {
    "wsj0-2mix": (write_wsj0mix, prepare_wsj0mix, {"num_spks": 2}, {}, ("mix", "s1", "s2")),
    "wsj0-3mix": (write_wsj0mix, prepare_wsj0mix, {"num_spks": 3}, {}, ("mix", "s1", "s2", "s3")),
    "wham": (write_wham, prepare_wham, {}, {}, ("mix", "s1", "s2", "noise")),
    "whamr": (write_whamr, prepare_whamr, {}, {}, ("mix", "s1", "s2", "noise")),
    "libri2mix": (write_librimix, prepare_librimix, {"num_spks": 2}, {}, ("mix", "s1", "s2")),
    "libri3mix": (
        write_librimix,
        prepare_librimix,
        {"num_spks": 3},
        {"task": "separate_noisy"},
        ("mix", "s1", "s2", "s3", "noise"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_speechbrains_dataset_reads_our_manifests(case, tmp_path):
    write, prepare, tree, options, columns = case
    root = write(tmp_path / "corpus", **tree)
    manifests = prepare(str(root), str(tmp_path / "manifests"), **tree, **options)
    for manifest in manifests.values():
        item, batch = read_as_recipes_do(manifest, str(root), columns)
        assert batch.id == [item["id"]]
        for column in columns:
            assert torch.equal(batch[f"{column}_sig"].data[0], item[f"{column}_sig"])
        if prepare is not prepare_whamr:  # whose sources are free of the rooms that the mixture has
            total = sum(item[f"{column}_sig"] for column in columns[1:])
            torch.testing.assert_close(item["mix_sig"], total, rtol=0, atol=1e-3)


def test_whamrs_targets_are_anechoic_in_every_split(tmp_path):
    """The recipe's own manifests have reverberant ones for validation and test."""
    root = write_whamr(tmp_path / "whamr")
    for split, manifest in prepare_whamr(str(root), str(tmp_path / "manifests")).items():
        item, _ = read_as_recipes_do(manifest, str(root), ("s1",))
        expected, _ = soundfile.read(root / f"wav8k/min/{split}/s1_anechoic/{item['id']}.wav", dtype="float32")
        assert torch.equal(item["s1_sig"], torch.from_numpy(expected))


# ---- the tutorial


def test_the_tutorials_lines_export_what_a_recipe_has_trained(tmp_path, monkeypatch):
    """An output folder as SpeechBrain leaves it: the YAML with its overrides, and checkpoints with the loss."""
    monkeypatch.chdir(tmp_path)
    run = Path("results/mossformer-small")
    overrides = {**TINY, "data_folder": "corpus/wham_original", "output_folder": str(run)}
    text = (RECIPES / "WHAMandWHAMR/separation/hparams/mossformer-wham.yaml").read_text()
    run.mkdir(parents=True)
    with open(run / "hyperparams.yaml", "w") as file:
        file.write(resolve_references(text, overrides).read())
    hparams = load_hyperpyyaml(text, overrides)
    scale = hparams["MaskNet"].position.scale
    for loss in (2.0, -3.0, 1.0):
        torch.nn.init.constant_(scale, loss)
        hparams["checkpointer"].save_checkpoint(meta={"si-snr": loss})

    # The commands, which don't do it, name the tutorial.
    with pytest.raises(InputError, match=r"own recipes, .*Section 5 of docs/stock_recipes\.md.* --init_from"):
        export_training(run, "model")
    with pytest.raises(InputError, match=r"own recipes, .*Section 5 of docs/stock_recipes\.md"):
        MossFormerSeparation.from_hparams(source=run)

    lines, *_ = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S)
    exec(compile(lines, str(TUTORIAL), "exec"), {})

    model = MossFormerSeparation.from_hparams(source=run / "export", run_opts={"device": "cpu"})
    assert model.mods.masknet.position.scale.item() == -3.0  # of the lowest loss
    assert model.hparams.sample_rate == 8000
