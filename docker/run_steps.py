"""Run the steps of the Dockerfile without a daemon: in an empty environment, in order, then its entry point.

    python docker/run_steps.py FOLDER [--arg TORCH_INDEX_URL=ADDRESS] -- --model MODEL --port 8123

FOLDER, which must not exist, is the image's root; a new virtual environment in it has its Python. Of the caller's
environment the steps get PATH, after that of the virtual environment, and pip's settings. This is no image: the base
image, the user and the isolation are missing. It shows that the copied files suffice, and that the service starts from
them.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
SKIPPED = ("FROM", "EXPOSE", "HEALTHCHECK", "USER")
KEPT = ("PIP_", "LANG")  # prefixes of the caller's variables


def steps(text):
    """Instructions of a Dockerfile: list of (keyword, rest)."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


class Image:
    """The state of the image after the steps so far.

    Arguments
    ---------
    root : Path
        Used as ``/``.
    arguments : dict
        Values of ``ARG``.
    """

    def __init__(self, root, arguments):
        self.root, self.arguments, self.folder, self.entry = root, arguments, root, None
        venv.create(root / "venv", with_pip=True)
        self.environment = {key: value for key, value in os.environ.items() if key.startswith(KEPT)}
        self.environment["PATH"] = f"{root / 'venv' / 'bin'}:{os.environ['PATH']}"
        self.environment["HOME"] = str(root)

    def run(self, keyword, rest):
        """One instruction."""
        print(f"{keyword} {rest}", flush=True)
        if keyword in SKIPPED or (keyword == "RUN" and rest.startswith("useradd ")):
            print("  (needs a daemon; skipped)")
        elif keyword == "ARG":
            name, _, default = rest.partition("=")
            self.environment[name] = self.arguments.get(name, default.strip('"'))
        elif keyword == "ENV":
            self.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif keyword == "WORKDIR":
            self.folder = self.root / rest.lstrip("/")
            self.folder.mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY":
            *sources, target = rest.split()
            for source in sources:
                self._copy(REPOSITORY / source, self.folder / target)
        elif keyword == "RUN":
            subprocess.run(["sh", "-ec", rest], cwd=self.folder, env=self.environment, check=True)
        elif keyword == "ENTRYPOINT":
            self.entry = json.loads(rest)
        else:
            raise SystemExit(f"{DOCKERFILE}: {keyword} is not known here.")

    def _copy(self, source, target):
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def main(words):
    """Runs the steps, then replaces this process with the entry point."""
    own, service = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("folder", type=Path, help="used as the image's root; must not exist")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="as docker's --build-arg")
    options = parser.parse_args(own)
    options.folder.mkdir(parents=True)
    image = Image(options.folder.resolve(), dict(word.split("=", 1) for word in options.arg))
    for keyword, rest in steps(DOCKERFILE.read_text(encoding="utf-8")):
        image.run(keyword, rest)
    command = [shutil.which(image.entry[0], path=image.environment["PATH"]), *image.entry[1:], *service]
    print(shlex.join(command), flush=True)
    os.chdir(image.folder)
    os.execve(command[0], command, image.environment)


if __name__ == "__main__":
    main(sys.argv[1:])
