"""The HTTP service under load: `python -m benchmarks.service MODEL`.

    python -m benchmarks.service MODEL --requests 200 --clients 8 --seconds 5

It starts `mossformer-sb serve` and sends it recordings from many clients at once. Of every ten requests one is
malformed, and one client is killed: half of those during the upload, half before the response. It reports the number of
correct responses, the speed, the memory of the service over time, and files left behind.
"""

import argparse
import collections
import contextlib
import http.client
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import numpy as np
import soundfile
from tqdm import tqdm

RATE = 8000
KINDS = ("whole",) * 8 + ("malformed", "killed")
MALFORMED = (b"", b"no audio at all", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\0" * 1000)


def recordings(seconds, number, seed=0):
    """WAV files of different lengths around ``seconds``: list of bytes."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(number):
        buffer = io.BytesIO()
        samples = 0.1 * rng.standard_normal(round(RATE * seconds * rng.uniform(0.5, 1.5)))
        soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
        found.append(buffer.getvalue())
    return found


class Server:
    """`mossformer-sb serve` in its own process."""

    def __init__(self, model, *options):
        self.folder = tempfile.mkdtemp(prefix="service-benchmark-")
        words = "-m mossformer_sb.cli serve --shifts 1 --port 0 --model"
        command = [sys.executable, *words.split(), model, *options]
        environment = {**os.environ, "TMPDIR": self.folder}
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found.group(1))
                break
        else:
            raise SystemExit("The service did not start.")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def memory(self):
        """Resident memory, MB; on Linux."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1e6

    def left_behind(self):
        """Files and folders in its temporary folder."""
        return len(os.listdir(self.folder))

    def stop(self):
        """Stop the service, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        shutil.rmtree(self.folder)
        return code


def request(port, kind, body, number):
    """Send one request, and return its result as one word."""
    if kind == "killed":
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"POST /separate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            half = len(body) // 2 if number % 20 < 10 else len(body)
            client.sendall(head + body[:half])
            time.sleep(0.2)
        return "gone"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with contextlib.closing(connection):
        connection.request("POST", "/separate", MALFORMED[number % len(MALFORMED)] if kind == "malformed" else body)
        answer = connection.getresponse()
        content = answer.read()
    if answer.status == 429:
        time.sleep(int(answer.headers["Retry-After"]))
        return request(port, kind, body, number)
    if kind == "malformed":
        return "refused" if answer.status in (400, 422) else f"status {answer.status}"
    if answer.status != 200:
        return f"status {answer.status}"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lengths = {soundfile.info(io.BytesIO(archive.read(name))).frames for name in archive.namelist()}
        whole = len(archive.namelist()) == 2 and lengths == {soundfile.info(io.BytesIO(body)).frames}
    return "separated" if whole else "incomplete"


def load(server, number, clients, bodies):
    """Send requests from some clients at once.

    Returns
    -------
    dict
        ``ends``, kind and result → count; ``seconds``; ``audio_seconds`` separated; ``memory``, MB after each tenth of
        the requests; ``left_behind``; ``busy``, places that are still taken.
    """
    ends, memory, lock = collections.Counter(), [], threading.Lock()
    numbers, audio = iter(range(number)), 0.0
    bar = tqdm(total=number, unit="request", disable=None)

    def client():
        nonlocal audio
        while True:
            with lock:
                index = next(numbers, None)
            if index is None:
                return
            kind, body = KINDS[index % len(KINDS)], bodies[index % len(bodies)]
            end = request(server.port, kind, body, index)
            with lock:
                ends[kind, end] += 1
                audio += len(body) / 2 / RATE if end == "separated" else 0
                bar.update()
                if bar.n % max(1, number // 10) == 0:
                    memory.append(round(server.memory()))

    start = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    bar.close()
    for _ in range(200):  # recordings of killed clients are separated to their end
        busy = _busy(server.port)
        if not busy:
            break
        time.sleep(0.1)
    return {
        "ends": {f"{kind}: {end}": count for (kind, end), count in sorted(ends.items())},
        "seconds": seconds,
        "audio_seconds": audio,
        "memory": memory,
        "left_behind": server.left_behind(),
        "busy": busy,
    }


def _busy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())["busy"]


def main(arguments=None):
    """Print the results; 1 if anything was lost or left behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition(":")[0])
    parser.add_argument("model", help="folder of an exported model of two speakers")
    parser.add_argument("--requests", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="mean length of a recording (default: %(default)s)")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args(arguments)
    server = Server(options.model)
    found = load(server, options.requests, options.clients, recordings(options.seconds, 20))
    found["exit_code"] = server.stop()
    print(f"{options.requests} requests, {options.clients} at once, in {found['seconds']:.0f} s")
    for end, count in found["ends"].items():
        print(f"  {end}: {count}")
    print(f"{found['audio_seconds'] / found['seconds']:.1f} s of audio per second")
    print(f"memory in MB: {' '.join(map(str, found['memory']))}")
    print(f"left behind: {found['left_behind']} files, {found['busy']} places; exit code {found['exit_code']}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
    expected = {"whole: separated", "malformed: refused", "killed: gone"}
    return 0 if set(found["ends"]) <= expected and not found["left_behind"] and not found["busy"] else 1


if __name__ == "__main__":
    sys.exit(main())
