"""The command line: accepted options, and messages for refused ones."""

import re
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from mossformer_sb.errors import InputError
from mossformer_sb.training.command_line import check_device, parse_arguments
from mossformer_sb.training.experiment_file import (
    AUGMENTATION,
    BUILT_IN_CODE,
    NEEDED,
    RENAMED,
    REQUIRED,
    check_complete,
    read_yaml,
)

WHAM = str(Path(__file__).parents[2] / "hparams" / "mossformer_wham.yaml")

YAML = """
data_folder: !PLACEHOLDER
output_folder: !ref <data_folder>/results
seed: 1234
report: False
precision: fp32
a: 1
anything: null
layers: [1, 2]
optimizer: {name: adam, inner: {lr: 0.1, eps: 0.2}}
masknet: !new:torch.nn.Dropout
    p: 0.1
counter: !new:collections.Counter
    x: 1
"""


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def parse(yaml_file):
    """Parse with the placeholder filled, and return (run_opts, overrides)."""

    def parse(*words):
        _, run_opts, overrides = parse_arguments([str(yaml_file), "--data_folder=d", *words])
        assert overrides.pop("data_folder") == "d"
        return run_opts, overrides

    return parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("", ""),
        ("[1, a]", [1, "a"]),
        ("'007'", "007"),
        ("yes", "yes"),
        ("5 #c", "5 #c"),
    ],
)
def test_values_are_read_as_yaml(parse, text, value):
    for words in (["--anything", text], [f"--anything={text}"]):
        _, overrides = parse(*words)
        assert overrides == {"anything": value} and type(overrides["anything"]) is type(value)


@pytest.mark.parametrize("text", ["fast", "0,1", "[1]", "true", "", "1e-3x"])
def test_a_number_stays_a_number(parse, text):
    with pytest.raises(InputError, match=r"seed must be a number, as 1234 in .*; found .*--seed 1234") as error:
        parse("--seed", text)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="optimizer.inner.lr must be a number, as 0.1 in"):
        parse("--optimizer", f"{{inner: {{lr: '{text}'}}}}")


@pytest.mark.parametrize("text", ["0.5", "-3", "1e-3", "null"])
def test_any_number_or_null_is_a_number(parse, text):
    assert list(parse("--a", text)[1]) == ["a"]


@pytest.mark.parametrize("text", ["maybe", "1", "null", "yes"])
def test_true_or_false(parse, text):
    with pytest.raises(InputError, match="report must be true or false, as in .*x.yaml; found "):
        parse("--report", text)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device 'cuda' is not available; available: 1 of kind cpu. Or give no --device"),
        ("cuda:1", "device 'cuda:1' is not available; available: 1 of kind cpu"),
        ("gpu", "device 'gpu' is not known: choose cpu, mps, cuda, or one of several as in cuda:1"),
        ("auto", "device 'auto' is not known: choose cpu, mps, cuda, "),
    ],
)
def test_device_that_is_not_available(parse, monkeypatch, device, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    run_opts, _ = parse("--device", device)
    with pytest.raises(InputError, match=message):
        check_device(run_opts)
    check_device(parse("--device", "cpu")[0])
    check_device(parse()[0])


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_keys_of_earlier_versions_are_refused_with_their_new_names(parse, yaml_file, old, new):
    with pytest.raises(InputError, match=f"^--{old} is now called --{new}: give it under this name"):
        parse(f"--{old}", "1")
    yaml_file.write_text(f"{YAML}{old}: 1\n")
    with pytest.raises(InputError, match=f"x.yaml: {old} is now called {new}. Rename these keys"):
        parse()


@pytest.mark.parametrize("key", BUILT_IN_CODE)
def test_keys_of_what_is_built_in_code_are_refused(parse, yaml_file, key):
    with pytest.raises(InputError, match=f"^--{key} is neither a key of"):
        parse(f"--{key}", "1")
    yaml_file.write_text(f"{YAML}{key}: 1\n")
    with pytest.raises(InputError, match=f"x.yaml: {key} would have no effect: train.py builds these objects"):
        parse()


def test_a_key_keeps_its_name_where_another_is_called_as_it_was():
    """No new name is an old one, so that a chain of renamings can't lead astray."""
    assert not {*RENAMED.values()} & {*RENAMED, *BUILT_IN_CODE}


AWKWARD = ["/d/b=c", "C:\\x", "/a b/c", "/a #b", "#", "a: b", "- a", "---", "*x", "!x", "%x", "<x", "2024-01-01"]


@pytest.mark.parametrize("text", AWKWARD)
def test_text_arrives_as_it_is(yaml_file, text):
    for words in (["--data_folder", text], [f"--data_folder={text}"]):
        if words[-1].startswith("---"):
            continue  # a word that starts with -- is an option; its value needs the form with =
        hparams_file, _, overrides = parse_arguments([str(yaml_file), *words])
        assert overrides == {"data_folder": text}
        with open(hparams_file) as file:
            hparams = load_hyperpyyaml(file, overrides)
        assert hparams["data_folder"] == text
        assert hparams["output_folder"] == text + "/results"


def test_flag_alone_is_true(parse):
    run_opts, overrides = parse("--report", "--debug", "--seed", "1")
    assert overrides == {"report": True, "seed": 1}
    assert run_opts["debug"] is True


def test_key_of_the_yaml_beats_a_prefix_of_an_option(parse):
    run_opts, overrides = parse("--a", "2")
    assert overrides == {"a": 2}
    assert run_opts["auto_mix_prec"] is False


def test_speechbrain_reads_its_options(parse):
    run_opts, overrides = parse(
        "--device", "cpu", "--max_grad_norm", "-1", "--compile_module_keys", "encoder", "masknet", "--log_config=/a=b"
    )
    assert overrides == {}
    assert run_opts["device"] == "cpu"
    assert run_opts["max_grad_norm"] == -1.0
    assert run_opts["compile_module_keys"] == ["encoder", "masknet"]
    assert run_opts["log_config"] == "/a=b"
    assert run_opts.overridden_args == {"device", "max_grad_norm", "compile_module_keys", "log_config"}


def test_step_limit_is_a_number(parse):
    assert parse("--optimizer_step_limit", "10")[0]["optimizer_step_limit"] == 10
    with pytest.raises(InputError, match="whole number, found 'ten'"):
        parse("--optimizer_step_limit", "ten")


def test_key_and_option_at_once_is_set_in_both(parse):
    run_opts, overrides = parse("--precision", "bf16")
    assert overrides == {"precision": "bf16"}
    assert run_opts["precision"] == "bf16" and run_opts.overridden_args == {"precision"}


def test_flag_can_be_lowered(yaml_file):
    yaml_file.write_text("noprogressbar: True\n")
    _, run_opts, overrides = parse_arguments([str(yaml_file), "--noprogressbar=False", "--debug", "False"])
    assert overrides == {"noprogressbar": False}
    assert run_opts.overridden_args == set()


def test_nested_override(parse):
    _, overrides = parse("--optimizer", "{inner: {lr: 3}}", "--masknet={inplace: true}", "--counter", "{new: 2}")
    assert overrides == {"optimizer": {"inner": {"lr": 3}}, "masknet": {"inplace": True}, "counter": {"new": 2}}


def test_an_empty_mapping_takes_anything(yaml_file):
    """Whoever reads it finds what can't be."""
    yaml_file.write_text("dataloader_opts: {}\n")
    words = [str(yaml_file), "--dataloader_opts", "{prefetch_factor: 4, persistent_workers: True}"]
    assert parse_arguments(words)[2] == {"dataloader_opts": {"prefetch_factor": 4, "persistent_workers": True}}
    with pytest.raises(InputError, match="As an option of the data loaders: --dataloader_opts '{pin_memory: VALUE}'"):
        parse_arguments([str(yaml_file), "--pin_memory"])


@pytest.mark.parametrize("text", ["2024", "1.5", "true", "1e3"])
def test_text_that_looks_like_a_number_stays_text(parse, yaml_file, text):
    """As a folder that is named after a year, or a corpus after a number."""
    assert parse("--output_folder", text)[1]["output_folder"] == text
    yaml_file.write_text("corpus_name: wham\nspeech_folder: null\nseed: 1\n")
    words = [str(yaml_file), "--corpus_name", text, f"--speech_folder={text}"]
    assert parse_arguments(words)[2] == {"corpus_name": text, "speech_folder": text}
    assert parse_arguments([str(yaml_file), "--corpus_name", "null"])[2] == {"corpus_name": None}


@pytest.mark.parametrize("key", REQUIRED)
def test_a_required_key_is_not_null_in_the_file(yaml_file, key):
    yaml_file.write_text(f"{key}: null\n")
    with pytest.raises(InputError, match=f"{key} in .* is null: give a "):
        parse_arguments([str(yaml_file)])


@pytest.mark.parametrize("key", [*(key for key in REQUIRED if key in read_yaml(WHAM)), "data_folder"])
def test_a_required_key_is_not_null(key):
    given = [] if key == "data_folder" else ["--data_folder", "d"]
    message = f"{key} in .* is null: give a |needs a value for {key}|argument --{key}: invalid .* value: 'null'"
    with pytest.raises(InputError, match=message):
        parse_arguments([WHAM, *given, f"--{key}=null"])


def test_numbers_that_null_is_not_a_value_of():
    """Their null was a TypeError, some of them after an epoch."""
    keys = {"turn_rate", "max_pause", "min_seconds", "room_rate", "noise_rate", "max_grad_norm", "num_to_keep"}
    keys |= {"weight_decay", "final_lr", "warmup_share", "nonfinite_patience", "grad_accumulation_factor"}
    assert keys <= REQUIRED.keys()


@pytest.mark.parametrize("key", ["data_folder", "output_folder", "speech_folder", "init_from", "task", "model_size"])
def test_text_is_no_list(key):
    given = [] if key == "data_folder" else ["--data_folder", "d"]
    with pytest.raises(InputError, match=rf"{key} in .* must be text; found \[1\]"):
        parse_arguments([WHAM, *given, f"--{key}=[1]"])


def test_mapping_can_be_replaced(parse):
    assert parse("--optimizer", "null")[1] == {"optimizer": None}


def test_included_file(yaml_file):
    (yaml_file.parent / "inner.yaml").write_text("b: 1\nc: 2\n")
    yaml_file.write_text("a: !include:inner.yaml\n    b: 3\n")
    assert parse_arguments([str(yaml_file), "--a", "{c: 4}"])[2] == {"a": {"c": 4}}
    with pytest.raises(InputError, match="a.d is not in"):
        parse_arguments([str(yaml_file), "--a", "{d: 4}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sede", "1"], "--sede is neither.*Did you mean --seed"),
        (["--output-folder", "1"], "Did you mean --output_folder"),
        (["--auto", "1"], "written in full: did you mean --auto_mix_prec"),
        (["--compile_mod", "x"], "--compile_mode or --compile_module_keys"),
        (["--qqqq"], "--qqqq is neither.*--help"),
        (["--seed", "1", "--seed=2"], "--seed is given more than once"),
        (["--data_folder=d"], "--data_folder is given more than once"),
        (["--seed", "1", "2"], "--seed takes one value, found 2: 1 2"),
        (["--seed=1", "2"], "'2' is not an option"),
        (["--", "2"], "'--' is not an option"),
        (["--seed", "[1"], "--seed: '\\[1' .*not valid YAML"),
        (["--seed", "[!new:os.system ls]"], "not valid YAML"),
        (["--seed", "/a/<b>"], "seed: '/a/<b>' contains <...>"),
        (["--layers", "[a, <b>]"], "layers: '<b>' contains <...>"),
        (["--layers", "[{a: <b>}]"], "layers: '<b>' contains <...>"),
        (["--seed", "(1, 2)"], "tuple"),
        (["--device"], "--device.*takes one value, found 0"),
        (["--device", "cpu", "cuda"], "--device.*takes one value, found 2"),
        (["--debug", "3"], "--debug is a flag, found the value '3'"),
        (["--precision", "fp8"], "argument --precision: invalid choice: 'fp8'"),
        (["--debug_batches", "x"], "argument --debug_batches: invalid int value: 'x'"),
        (["--optimizer", "{nmae: sgd}"], r"optimizer.nmae is not in .*: optimizer has name, inner. Did you mean name"),
        (["--optimizer", "{inner: {rl: 1}}"], "optimizer.inner.rl is not in .*: optimizer.inner has lr, eps"),
        (["--masknet", "{drpout: 1}"], "masknet.drpout is not in .*: masknet has p"),
        (["--seed", "{a: 1}"], "seed in .* is not a mapping"),
        (["--optimizer", "{inner: {lr: {a: 1}}}"], "optimizer.inner.lr in .* is not a mapping"),
        (["--masknet", "a.wav"], "masknet in .* is !new:torch.nn.Dropout, .*; found 'a.wav'. Give the keys"),
        (["--masknet", "null"], "masknet in .*; found None. Give the keys that it is made from"),
        (["--output_folder"], "--output_folder takes one value, found none"),
        (["--optimizer", "3"], "optimizer in .* is a mapping, which no value can replace; found 3"),
    ],
)
def test_refused(parse, words, message):
    with pytest.raises(InputError, match=message) as error:
        parse(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not valid YAML: line 1|not valid YAML: line 2"),
        ("a: 1\na: 2\n", "not valid YAML.*duplicate key"),
        ("- 1", "has to hold keys and values"),
        ("", "has to hold keys and values"),
    ],
)
def test_unusable_yaml(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        parse_arguments([str(path)])
    assert str(path) in str(error.value)


def test_no_yaml(tmp_path):
    with pytest.raises(InputError, match="nowhere.yaml: can't read .*No such file"):
        parse_arguments(["nowhere.yaml"])
    with pytest.raises(InputError, match="can't read .*Is a directory"):
        parse_arguments([str(tmp_path)])
    for words in ([], ["--seed", "1"]):
        with pytest.raises(InputError, match="first argument has to be .*YAML"):
            parse_arguments(words)


def test_every_placeholder_is_named(yaml_file):
    yaml_file.write_text("a: !PLACEHOLDER\nb: {c: {d: !PLACEHOLDER }}\ne: [!PLACEHOLDER , 1]\nf: !PLACEHOLDER\n")
    with pytest.raises(InputError) as error:
        parse_arguments([str(yaml_file), "--f", "1"])
    assert str(error.value) == (
        f"{yaml_file} needs a value for a, b.c.d, e[0]. Add: --a VALUE --b '{{c: {{d: VALUE}}}}' --e VALUE"
    )
    parse_arguments([str(yaml_file), "--f", "1", "--a", "1", "--b", "{c: {d: 1}}", "--e", "[1]"])


def test_help_lists_keys_and_options(yaml_file, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_arguments([str(yaml_file), "--help"])
    shown = capsys.readouterr().out
    assert exit.value.code == 0
    assert "--seed 1234" in shown and "--data_folder (required)" in shown and "--debug_batches" in shown


def test_help_has_the_comments_and_omits_built_objects(yaml_file, capsys):
    yaml_file.write_text(
        "lr: 0.1   # rate; see #3\nnet: !apply:os.abort []\nmodules: {net: !ref <net>}\nrange: [1, 2]\nnone: null\n"
        "# ---- a heading\nfolder: !ref <lr>/x\n"
    )
    shown = {}
    for _ in range(2):
        with pytest.raises(SystemExit):
            parse_arguments([str(yaml_file), "--help"])
        shown = capsys.readouterr().out
    assert shown.partition("with their values there:\n")[2].splitlines()[:4] == [
        "  --lr 0.1         rate; see #3",
        "  --range [1, 2]",
        "  --none null",
        "  --folder <lr>/x",
    ]
    options = re.findall(r"(?m)^  --(\w+)", shown.partition("options:")[2].partition("keys of")[0])
    assert options == sorted(options) and "compile" in options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed=-1"], "seed in .* must be a whole number from 0; found -1"),
        (["--seed=.nan"], "seed in .* must be a whole number from 0; found nan"),
        (["--num_to_keep", "0"], "num_to_keep in .* must be a whole number from 1; found 0"),
        (["--num_to_keep", "2.0"], "num_to_keep in .* must be a whole number from 1; found 2.0"),
        (["--seed", "0.5"], "seed in .* must be a whole number from 0; found 0.5"),
        (["--number_of_epochs", "0"], "number_of_epochs in .* from 1; found 0"),
        (["--grad_accumulation_factor", "0"], "grad_accumulation_factor in .* from 1; found 0"),
    ],
)
def test_numbers_that_would_end_in_an_error_of_pytorch(yaml_file, words, message):
    yaml_file.write_text("seed: 1\nnumber_of_epochs: 3\ngrad_accumulation_factor: 1\nnum_to_keep: 1\n")
    with pytest.raises(InputError, match=message):
        parse_arguments([str(yaml_file), *words])


def test_steps_between_checkpoints_replace_the_minutes(yaml_file):
    yaml_file.write_text("ckpt_interval_minutes: 15\nckpt_interval_steps: 0\n")
    assert parse_arguments([str(yaml_file), "--ckpt_interval_steps", "2"])[2] == {
        "ckpt_interval_steps": 2,
        "ckpt_interval_minutes": 0,
    }
    assert parse_arguments([str(yaml_file), "--ckpt_interval_steps", "0"])[2] == {"ckpt_interval_steps": 0}


class TestCompleteness:
    FILES = sorted((Path(__file__).parents[2] / "hparams").rglob("*.yaml"))

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_of_the_experiments(self, path, caplog):
        check_complete(read_yaml(path), str(path), RunOptions().as_dict())
        assert not caplog.messages

    @pytest.mark.parametrize("key", NEEDED)
    def test_a_missing_key_is_named(self, key):
        tree = {name: value for name, value in read_yaml(WHAM).items() if name != key}
        with pytest.raises(InputError, match=f"x.yaml has no {key}. Add it"):
            check_complete(tree, "x.yaml")

    def test_the_code_reads_no_other_key_without_a_default(self):
        root = Path(__file__).parents[2]
        files = [
            root / "train.py",
            *(root / "mossformer_sb/training").glob("*.py"),
            root / "data_prep/corpora/prepare.py",
        ]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        found = {*re.findall(r'hparams\["(\w+)"\]', text), *re.findall(r"self\.hparams\.(\w+)", text), *AUGMENTATION}
        built = {"checkpointer", "epoch_counter", "train_logger"}
        assert found - built <= set(NEEDED)

    @pytest.mark.parametrize(("key", "meant"), [("ema_decy", "ema_decay"), ("grad_acumulation_factor", None)])
    def test_a_mistyped_key_is_a_warning(self, key, meant, caplog):
        tree = {**read_yaml(WHAM), key: 2}
        tree.pop(meant or "grad_accumulation_factor", None)
        check_complete(tree, "x.yaml", RunOptions().as_dict())
        assert caplog.messages == [
            f"x.yaml: nothing reads the key {key}. Did you mean {meant or 'grad_accumulation_factor'}?"
        ]

    def test_a_mistyped_needed_key(self):
        tree = {("sampel_rate" if key == "sample_rate" else key): value for key, value in read_yaml(WHAM).items()}
        with pytest.raises(InputError, match="has no sample_rate.* Its sampel_rate may be meant as sample_rate"):
            check_complete(tree, "x.yaml")

    def test_keys_of_ones_own_are_no_mistakes(self, caplog):
        tree = {**read_yaml(WHAM), "ema_decays": 1, "other": {"a": ["!ref <ema_decays>"]}, "own": 3}
        tree.pop("ema_decay", None)
        check_complete(tree, "x.yaml", RunOptions().as_dict())
        assert not caplog.messages
