#!/usr/bin/env python3
"""Searches what `semel bench engines --export` wrote with approximate nearest-neighbour programs from PyPI.

    semel bench engines --export ./export --save engines.json
    cli/bench/peers.py ./export/100000 --save peers.json
    semel bench plot engines.json peers.json --out engines.svg

The same references, probes, threshold and number of threads. A mate counts as found if it is among the K nearest that a peer
returns and its score there reaches the threshold. Peers return approximate lists and scores of 32-bit floats, so a score may lie
1e-5 below the threshold. Rates have Python's own time in them: some microseconds for each call.

The peers are installed, in versions that peers.txt pins, into a virtual environment that this script makes. One that cannot be
installed, or fails, is left out, and that is said.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
VERSION = 1
BATCH = 64
# What 32-bit floats may lose of a score that reaches the threshold exactly.
SLACK = 1e-5


def whole(low, high):
    def parse(text):
        number = int(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}")
        return number

    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER/N", help="what --export wrote")
    parser.add_argument("--peers", default=",".join(PEERS), help="with commas between them (%(default)s)")
    parser.add_argument("--ef", default="64,128,256,512", help="how many rows HNSW keeps in view while it searches (%(default)s)")
    parser.add_argument("--m", type=whole(2, 128), default=16, help="HNSW's neighbours of a row (%(default)s)")
    parser.add_argument("--ef-construction", type=whole(1, 10_000), default=200, help="ef while the index is built (%(default)s)")
    parser.add_argument("--k", type=whole(1, 1_000), default=10, help="nearest rows asked for (%(default)s)")
    parser.add_argument("--threads", type=whole(1, 1_024), default=1, help="threads that build and search (%(default)s)")
    parser.add_argument("--seconds", type=whole(1, 600), default=4, help="seconds that each rate is measured for (%(default)s)")
    parser.add_argument("--save", type=pathlib.Path, metavar="FILE.json", help="saves the rows, for semel bench plot")
    home = pathlib.Path.home() / ".cache/semel/peers"
    parser.add_argument("--environment", type=pathlib.Path, default=home, help="the virtual environment (%(default)s)")
    given = parser.parse_args()
    given.peers = given.peers.split(",")
    for peer in given.peers:
        if peer not in PEERS:
            parser.error(f"--peers: {peer} is none of {', '.join(PEERS)}")
    try:
        given.ef = [whole(given.k, 100_000)(ef) for ef in given.ef.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        parser.error(f"--ef: numbers with commas between them, each {given.k} (--k) to 100000")
    for folder in given.folders:
        if not (folder / "export.json").is_file():
            parser.error(f"{folder}: there is no export.json; semel bench engines --export FOLDER writes FOLDER/N")
    if given.save and not given.save.resolve().parent.is_dir():
        parser.error(f"--save {given.save}: its folder is not there")
    return given


def inside(environment, peers):
    """Goes on inside the virtual environment, with what peers.txt pins installed."""
    if pathlib.Path(sys.prefix).resolve() == environment.resolve():
        return
    python = environment / "bin/python"
    if not python.exists():
        say(f"making {environment}")
        venv.create(environment, with_pip=True)
    lines = (line.partition("#") for line in (HERE / "peers.txt").read_text().splitlines())
    pinned = [(pin.strip(), remark.partition(":")[0].partition(";")[0].strip()) for pin, _, remark in lines if pin.strip()]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for wanted in ["", *peers]:
        packages = [pin for pin, peer in pinned if peer == wanted]
        if subprocess.run([*pip, *packages]).returncode and not wanted:
            sys.exit(f"error: could not install {' '.join(packages)}")
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])


def say(text):
    print(text, file=sys.stderr, flush=True)


def version(package):
    return importlib.metadata.version(package)


# Each peer builds an index over unit vectors and returns (ids, scores) of the k nearest of each probe, cosines both.


class Usearch:
    def __init__(self, references, given):
        from usearch.index import Index

        self.name, self.given = f"usearch {version('usearch')}", given
        self.index = Index(
            ndim=references.shape[1], metric="ip", dtype="f32", connectivity=given.m, expansion_add=given.ef_construction
        )
        self.kernel = f"{self.index.hardware_acceleration} (usearch's own)"
        self.index.add(np.arange(len(references)), references, threads=given.threads)
        self.bytes = self.index.memory_usage

    def set_ef(self, ef):
        self.index.expansion_search = ef

    def search(self, probes):
        found = self.index.search(probes, self.given.k, threads=1)
        return found.keys.reshape(len(probes), -1), 1 - found.distances.reshape(len(probes), -1)

    def close(self):
        pass


class Hnswlib:
    kernel = "compiled for this processor"

    def __init__(self, references, given):
        import hnswlib

        self.name, self.given = f"hnswlib {version('hnswlib')}", given
        self.index = hnswlib.Index(space="ip", dim=references.shape[1])
        self.index.init_index(len(references), M=given.m, ef_construction=given.ef_construction)
        self.index.add_items(references, num_threads=given.threads)
        self.bytes = self.index.index_file_size()

    def set_ef(self, ef):
        self.index.set_ef(ef)

    def search(self, probes):
        found, distances = self.index.knn_query(probes, self.given.k, num_threads=1)
        return found, 1 - distances

    def close(self):
        pass


class Pgvector:
    kernel = "as packaged"

    def __init__(self, references, given):
        import pgserver
        from pgvector.psycopg import register_vector

        self.given, self.ef, self.register, self.each = given, given.k, register_vector, threading.local()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # As root the server runs as a user of its own, who must reach its folder.
        os.chmod(self.folder.name, 0o755)
        self.server = pgserver.get_server(self.folder.name + "/data")
        self.connections = []
        connection = self.connect()
        # Read at a start: the default 128 MB hold no index.
        connection.execute("ALTER SYSTEM SET shared_buffers = '2GB'")
        connection.execute("ALTER SYSTEM SET max_parallel_maintenance_workers = %d" % (given.threads - 1))
        connection.execute("ALTER SYSTEM SET maintenance_work_mem = '2GB'")
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.close()
        self.connections.clear()
        self.server.cleanup()
        self.server = pgserver.get_server(self.folder.name + "/data")
        connection = self.connection()
        (installed,) = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        self.name = f"pgvector {installed}"
        connection.execute(f"CREATE TABLE faces (id int PRIMARY KEY, face vector({references.shape[1]}) STORAGE PLAIN)")
        with connection.cursor().copy("COPY faces FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for row, reference in enumerate(references):
                copy.write_row([row, reference])
        connection.execute(
            "CREATE INDEX faces_hnsw ON faces USING hnsw (face vector_ip_ops)"
            f" WITH (m = {given.m}, ef_construction = {given.ef_construction})"
        )
        (self.bytes,) = connection.execute("SELECT pg_total_relation_size('faces')").fetchone()

    def connect(self):
        import psycopg

        connection = psycopg.connect(self.server.get_uri(), autocommit=True)
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.register(connection)
        self.connections.append(connection)
        return connection

    def connection(self):
        """One for each thread, with its ef."""
        if not hasattr(self.each, "connection"):
            self.each.connection, self.each.ef = self.connect(), None
        if self.each.ef != self.ef:
            self.each.connection.execute(f"SET hnsw.ef_search = {self.ef}")
            self.each.connection.execute("SET enable_seqscan = off")
            self.each.ef = self.ef
        return self.each.connection

    def set_ef(self, ef):
        self.ef = ef

    def search(self, probes):
        connection = self.connection()
        query = f"SELECT id, -(face <#> %s) FROM faces ORDER BY face <#> %s LIMIT {self.given.k}"
        with connection.pipeline():
            # One round trip for all.
            cursors = [connection.execute(query, (probe, probe), prepare=True, binary=True) for probe in probes]
        ids = np.full((len(probes), self.given.k), -1)
        scores = np.full(ids.shape, -1.0)
        for place, cursor in enumerate(cursors):
            for rank, (row, score) in enumerate(cursor.fetchall()):
                ids[place, rank], scores[place, rank] = row, score
        return ids, scores

    def close(self):
        for connection in self.connections:
            connection.close()
        self.server.cleanup()
        self.folder.cleanup()


class MilvusLite:
    kernel = "as packaged (FAISS)"

    def __init__(self, references, given):
        from pymilvus import DataType, MilvusClient

        self.name, self.given = f"Milvus-Lite {version('milvus-lite')}", given
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.client = MilvusClient(self.folder.name + "/faces.db")
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("face", DataType.FLOAT_VECTOR, dim=references.shape[1])
        index = self.client.prepare_index_params()
        parameters = {"M": given.m, "efConstruction": given.ef_construction}
        index.add_index("face", index_type="HNSW", metric_type="IP", params=parameters)
        self.client.create_collection("faces", schema=schema, index_params=index)
        for first in range(0, len(references), 1_000):
            block = references[first : first + 1_000]
            self.client.insert("faces", [{"id": first + row, "face": face} for row, face in enumerate(block)])
        self.client.flush("faces")
        self.client.load_collection("faces")
        files = (file for file in pathlib.Path(self.folder.name).rglob("*") if file.is_file())
        self.bytes = sum(file.stat().st_size for file in files)

    def set_ef(self, ef):
        self.ef = ef

    def search(self, probes):
        parameters = {"metric_type": "IP", "params": {"ef": self.ef}}
        found = self.client.search(
            "faces", list(probes), limit=self.given.k, output_fields=["id"], search_params=parameters
        )
        ids = np.full((len(probes), self.given.k), -1)
        scores = np.full(ids.shape, -1.0)
        for place, rows in enumerate(found):
            for rank, row in enumerate(rows):
                ids[place, rank], scores[place, rank] = row["id"], row["distance"]
        return ids, scores

    def close(self):
        self.client.close()
        self.folder.cleanup()


PEERS = {"usearch": Usearch, "hnswlib": Hnswlib, "pgvector": Pgvector, "milvus-lite": MilvusLite}


class Export:
    """The arrays of a folder; references stay on disk until a peer reads them."""

    def __init__(self, folder, k):
        self.told = json.loads((folder / "export.json").read_text())
        if self.told.get("version") != VERSION:
            sys.exit(f"error: {folder}/export.json: version: is {self.told.get('version')}, must be {VERSION}")
        self.references = np.load(folder / "references.npy", mmap_mode="r")
        self.strangers, self.mated = np.load(folder / "strangers.npy"), np.load(folder / "mated.npy")
        self.mates, self.made_from = np.load(folder / "mates.npy"), np.load(folder / "made_from.npy")
        most = int(np.bincount(self.mates[:, 0]).max(initial=0))
        if most > k:
            sys.exit(f"error: --k: must be {most} or more, as many mates as one probe has")


def pace(peer, probes, batch, threshold, given):
    """Probes per second on so many threads, how many searches that rests on, and how long each took."""
    batches = [probes[first : first + batch] for first in range(0, len(probes) - batch + 1, batch)]

    def search(own):
        _, scores = peer.search(own)
        return scores >= threshold - SLACK

    took, failed, turn = [], [], itertools.count()

    def run():
        try:
            search(batches[0])
            ready.wait()
            while time.perf_counter() - started[0] < given.seconds:
                own = batches[next(turn) % len(batches)]
                begun = time.perf_counter()
                search(own)
                took.append(time.perf_counter() - begun)
        except Exception as error:
            failed.append(error)
            ready.abort()

    started = [0.0]
    ready = threading.Barrier(given.threads, action=lambda: started.__setitem__(0, time.perf_counter()))
    threads = [threading.Thread(target=run) for _ in range(given.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.perf_counter() - started[0]
    if failed:
        raise failed[0]
    return len(took) * batch / lasted, len(took) * batch, sorted(took)


def quantile(ordered, share):
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def missed(peer, export):
    """How many pairs there are and how many were not returned: of further captures, and of planted probes."""
    found = [peer.search(export.mated[first : first + BATCH]) for first in range(0, len(export.mated), BATCH)]
    ids, scores = (np.concatenate(part) for part in zip(*found))
    probe, row = export.mates[:, 0], export.mates[:, 1]
    reached = (ids[probe] == row[:, None]) & (scores[probe] >= export.told["threshold"] - SLACK)
    lost, capture = ~reached.any(axis=1), probe < export.told["captures"]
    return [int(count) for count in (capture.sum(), lost[capture].sum(), (~capture).sum(), lost[~capture].sum())]


def measure(make, export, given):
    say(f"building {make.__name__} over {len(export.references)} references")
    begun = time.perf_counter()
    peer = make(np.ascontiguousarray(export.references), given)
    build_seconds = time.perf_counter() - begun
    told = export.told
    for ef in given.ef:
        try:
            peer.set_ef(ef)
            batched, batched_searches, _ = pace(peer, export.strangers, BATCH, told["threshold"], given)
            one_by_one, searches, took = pace(peer, export.strangers, 1, told["threshold"], given)
            mates, mates_missed, planted, planted_missed = missed(peer, export)
        except Exception as error:
            say(f"{peer.name}, ef {ef}: failed: {str(error)[:300]}")
            continue
        yield {
            "engine": f"{peer.name} HNSW M={given.m} ef={ef}",
            "program": f"peers.py, {peer.name}, efConstruction {given.ef_construction}, k {given.k}",
            "measured_at": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
            "processor": told["processor"],
            "kernel": peer.kernel,
            "threads": given.threads,
            **{field: told[field] for field in ("threshold", "dimension", "population", "seed", "references")},
            "build_seconds": build_seconds,
            "bytes_per_reference": peer.bytes / told["references"],
            "template_bytes_per_reference": 0.0,
            "batch": BATCH,
            "batched_probes_per_second": batched,
            "batched_searches": batched_searches,
            "one_by_one_probes_per_second": one_by_one,
            "one_by_one_searches": searches,
            "one_by_one_p50_ms": quantile(took, 0.5) * 1e3,
            "one_by_one_p99_ms": quantile(took, 0.99) * 1e3,
            "mates": mates,
            "mates_missed": mates_missed,
            "planted": planted,
            "planted_missed": planted_missed,
        }
    peer.close()


def at_most(count, of):
    """The bound that a share is below with a confidence of 95 %, after Clopper and Pearson."""
    if of == 0 or count == of:
        return 1.0

    def chance(share):
        logs = [
            math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
            + some * math.log(share) + (of - some) * math.log1p(-share)
            for some in range(count + 1)
        ]
        return sum(map(math.exp, logs))

    low, high = count / of, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) > 0.05 else (low, middle)
    return high


HEADS = (
    "engine", "built in", "bytes/reference", "probes/s, batches of 64", "one by one", "p50", "p99",
    "mates missed (95 %)", "planted missed (95 %)",
)


def cells(row):
    def misses(count, of):
        return f"{count:,} of {of:,}: < {at_most(count, of):.2%}" if of else "none there"

    return (
        row["engine"],
        f"{row['build_seconds']:.1f} s",
        f"{row['bytes_per_reference']:,.0f}",
        f"{row['batched_probes_per_second']:,.0f} ({row['batched_searches']:,} searches)",
        f"{row['one_by_one_probes_per_second']:,.0f} ({row['one_by_one_searches']:,} searches)",
        f"{row['one_by_one_p50_ms']:.2f} ms",
        f"{row['one_by_one_p99_ms']:.2f} ms",
        misses(row["mates_missed"], row["mates"]),
        misses(row["planted_missed"], row["planted"]),
    )


def load_numpy():
    global np
    import numpy as np


def work(name, folder, given, results):
    """Measures one peer in a process of its own: one that ends takes nobody with it, and none has another's threads."""
    load_numpy()
    try:
        for row in measure(PEERS[name], Export(folder, given.k), given):
            results.send(row)
    except Exception as error:
        sys.exit(f"{name}: {type(error).__name__}: {str(error)[:300]}")


def rows_of(name, folder, given):
    """The rows of a peer as they come, and its exit code at last."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work, args=(name, folder, given, sender))
    process.start()
    sender.close()
    with contextlib.suppress(EOFError):
        while True:
            yield receiver.recv()
    process.join()
    return process.exitcode


def main():
    given = arguments()
    # Before any library that starts threads of its own is there.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    inside(given.environment, given.peers)
    load_numpy()

    saved, absent = [], []

    def show(name, folder):
        rows = rows_of(name, folder, given)
        while True:
            try:
                row = next(rows)
            except StopIteration as end:
                return end.value
            saved.append(row)
            print(f"| {' | '.join(cells(row))} |", flush=True)
            if given.save:
                given.save.write_text(json.dumps({"version": VERSION, "rows": saved}, indent=1) + "\n")

    for folder in given.folders:
        export = Export(folder, given.k)
        told = export.told
        others = int((export.made_from[export.mates[:, 0]] != export.mates[:, 1]).sum())
        say(f"{folder}: {len(export.mates)} mates, {others} of them with a reference that the probe was not made from")
        print(
            f"{told['references']:,} references x {told['dimension']} components of population {told['population']},"
            f" {given.threads} thread(s), threshold {told['threshold']}, {told['processor']};"
            f" {given.k} nearest, efConstruction {given.ef_construction}\n",
        )
        print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
        for name in given.peers:
            if code := show(name, folder):
                absent.append(name)
                say(f"{name}: left out over {told['references']} references: its process ended with {code}")
        print()
    sys.exit(1 if absent else 0)


if __name__ == "__main__":
    main()
