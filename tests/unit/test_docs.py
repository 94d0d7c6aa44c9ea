"""That the pages say what is there: links, files, names, options and commands; and the citation."""

import ast
import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from speechbrain.utils.run_opts import RunOptions

import data_prep.__main__
import data_prep.generate.__main__
import mossformer_sb
from mossformer_sb import cli
from mossformer_sb.errors import InputError
from mossformer_sb.training.command_line import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "recipes/README.md", "examples/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # which tells of what was
)
ELIDED = ("…", "...")
# What other programs take.
OTHERS_OPTIONS = """
    --N_epochs --filename --files --find-links --float32 --int24 --ipc --list_models --mp3 --nnodes --no-deps --no-index
    --node_rank --nproc_per_node --rdzv_endpoint --scheduler-file --shm-size --single_stem --two-stems --use_wham_noise
""".split()


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=name)
def page(request):
    return request.param


def blocks(page, *languages):
    """The code blocks of a page that are in some languages."""
    text = page.read_text(encoding="utf-8")
    return [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language in languages]


def prose(page):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def inline_code(page):
    """Code within sentences, which may go on in the next line."""
    return [" ".join(code.split()) for part in prose(page).split("\n\n") for code in re.findall(r"`([^`]+)`", part)]


# ---- links


def anchors_of(path):
    """As GitHub makes them, and the site."""
    headings = re.findall(r"^#+ +(.*?)$", prose(path), re.M)
    return {
        re.sub(r"[^\w -]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text).lower()).replace(" ", "-") for text in headings
    }


def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", prose(page)):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), f"{target}#{anchor}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w./*-]+)$|<([\w./-]+)>$", index, re.M))
    listed = {first or second for first, second in listed}
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"notebook"}
    assert pages - {"index"} <= listed
    shown = {Path(target).stem for target in re.findall(r"\]\((?!http)([^)#]+)\)", index)}
    assert pages - {"index"} <= shown


# ---- files, names, options


def test_files_that_are_named_are_there(page):
    """Files of the repository, with patterns and {choices}, by their path from its top or from the package's."""
    tops = (
        "hparams|docs|data_prep|mossformer_sb|recipes|benchmarks|tests|examples|docker|network|training|data|inference"
    )
    tops += "|evaluation|sharing"
    for code in inline_code(page):
        if not re.fullmatch(rf"(?:{tops})/[\w./*{{}},-]*\.(?:py|ya?ml|md|sh|csv\.gz|csv|ipynb|flac)", code):
            continue
        if name(page) == "CONTRIBUTING.md" and code not in now_in_contributing():
            continue  # the table of moves tells of what was
        if re.fullmatch(r"recipes/.*/train\.py", code):
            continue  # SpeechBrain's
        choices = re.search(r"\{([^}]*)\}", code)
        wanted = [code.replace(choices[0], one) for one in choices[1].split(",")] if choices else [code]
        for pattern in wanted:
            assert [*ROOT.glob(pattern), *(ROOT / "mossformer_sb").glob(pattern)], pattern


def now_in_contributing():
    """What CONTRIBUTING.md names outside of its table of moves, and in that table's right column."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"^\| `[^|]*\|", "|", text, flags=re.M)
    return re.findall(r"`([^`\n]+)`", text)


def resolve(dotted):
    """What a dotted name stands for."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if error.name not in {".".join(parts[: number + 1]) for number in range(len(parts))}:
                pytest.skip(f"needs {error.name}")  # an extra
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{dotted} is not there")


def test_python_names_are_there(page):
    if name(page) == "CONTRIBUTING.md":
        return  # it tells of what was
    dotted = {code.rstrip("()") for code in inline_code(page) if re.fullmatch(r"mossformer_sb(\.\w+)+(\(\))?", code)}
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "mossformer_sb":
                dotted |= {f"{node.module}.{imported.name}" for imported in node.names}
    for path in dotted - {"mossformer_sb.egg"}:
        resolve(path)


def known_options():
    """Options of every program here, and of SpeechBrain."""
    sources = [*ROOT.glob("mossformer_sb/**/*.py"), *ROOT.glob("data_prep/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    options = set(re.findall(r'"(--[\w-]+)"', text))
    for path in ROOT.glob("hparams/**/*.yaml"):
        options |= {f"--{key}" for key in re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.M)}
    return options | {f"--{key}" for key in RunOptions.__dataclass_fields__}


def test_options_that_are_named_are_there(page):
    named = {option for code in inline_code(page) for option in re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", code)}
    assert named - known_options() - set(OTHERS_OPTIONS) == set()


# ---- commands


def commands(page):
    """Words of the commands in a page's shell blocks."""
    for block in blocks(page, "bash", "sh"):
        block = with_variables(block.replace("\\\n", " "))
        for line in block.splitlines():
            with contextlib.suppress(ValueError):  # a quotation over several lines is no command of ours
                words = shlex.split(line, comments=True)
                words = words[: words.index("|")] if "|" in words else words
                words = words[: words.index(">")] if ">" in words else words
                while words and re.fullmatch(r"\w+=.*|timeout|-s|KILL|\d+m", words[0]):
                    words = words[1:]
                yield words


def with_variables(block):
    """A shell block with the variables that it sets put in their places."""
    for variable, quoted, plain in re.findall(r'^(?:export )?([A-Z]\w*)=(?:"([^"]*)"|(\S+))$', block, re.M):
        block = block.replace(f"${variable}", " ".join((quoted or plain).split()))
    return block


def parse(parser, words):
    """Have a parser of argparse read words, where nothing was left out of them."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(words)
    except SystemExit as error:
        assert error.code == 0 or "the following arguments are required" in told.getvalue(), told.getvalue()
        return False
    return True


def without_elisions(words):
    return [word for word in words if word not in ELIDED]


def test_commands_of_the_package_are_understood(page):
    for words in commands(page):
        if words[:1] == ["mossformer-sb"]:
            given = without_elisions(words[1:])
            complete = parse(cli._parser(given), given)
            assert complete or len(given) < len(words) - 1 or "--help" in given, words


def test_commands_of_data_prep_are_understood(page):
    parsers = {"data_prep": data_prep.__main__._parser, "data_prep.generate": data_prep.generate.__main__._parser}
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2] in parsers:
            given = without_elisions(words[3:])
            complete = parse(parsers[words[2]](), given)
            assert complete or len(given) < len(words) - 3 or "--help" in given, words


def test_commands_that_train_are_understood(page):
    if name(page) in ("docs/stock_recipes.md", "recipes/README.md"):
        return  # theirs is another train.py
    for words in commands(page):
        if "train.py" not in words or "--help" in words or words[words.index("train.py") + 1] in ELIDED:
            continue
        given = without_elisions(words[words.index("train.py") + 1 :])
        given[0] = str(ROOT / given[0])
        try:
            parse_arguments(given)
        except InputError as error:
            assert "needs a value for" in str(error) and {*ELIDED} & {*words}, f"{words}: {error}"


# ---- how to cite


def test_the_citation_is_of_this_version():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mossformer_sb.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year", "conference", "url"} <= set(reference)
        assert all({"family-names", "given-names"} == set(author) for author in reference["authors"])


def test_the_readme_cites_what_the_citation_does():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("{MossFormer}", "MossFormer").split())
    assert citation["references"][0]["title"].strip() in readme
