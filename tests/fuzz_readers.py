"""Fuzzes the readers of files, guided by coverage, until one fails otherwise than by an error of ours.

Install it first: `pip install atheris==3.0.0`. `python tests/fuzz_readers.py 20000` takes 20,000 runs of
each reader; words after the number choose those with one of them in their names. What it saw is kept as by
the tests of faults, in the folder that RESIDUAL_FAULTS names.
"""

import os
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("the fuzzer needs atheris: pip install atheris==3.0.0")
with atheris.instrument_imports(include=["residual"]):
    import residual.cli.main  # noqa: F401
    from readers import Reader, readers
from faults import record

OPTIONS = (
    "-timeout=60",
    "-report_slow_units=60",
    "-rss_limit_mb=6000",
    "-print_final_stats=0",
    "-verbosity=0",
    "-max_len=20000",
)


def fuzz(reader: Reader, runs: int, folder: Path) -> None:
    """Fuzz one reader; this ends the process, with exit code 0 if nothing was found."""
    for part in ("corpus", "files", "found"):
        (folder / part).mkdir(parents=True)
    (folder / "corpus" / "valid").write_bytes(reader.valid)
    reader.prepare(folder / "files")
    options = (*OPTIONS, f"-runs={runs}", f"-artifact_prefix={folder / 'found'}/", str(folder / "corpus"))
    atheris.Setup([sys.argv[0], *options], lambda content: reader.check(folder / "files", content) and None)
    atheris.Fuzz()


def main(runs: int, words: list[str]) -> int:
    """Fuzz the readers one after the other, each in a process of its own; return how many failed."""
    scratch, failed, tried = Path(tempfile.mkdtemp(prefix="residual-fuzz-")), 0, 0
    for number, reader in enumerate(readers(scratch).values()):
        if words and not any(word in reader.name for word in words):
            continue
        sys.stdout.flush()
        child = os.fork()
        if not child:
            fuzz(reader, runs, scratch / f"fuzz-{number}")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        failed, tried = failed + (code != 0), tried + 1
        found = f"exit code {code}, see {scratch}" if code else "nothing found"
        sys.stdout.write(f"{reader.name}: {found}\n")
    if not failed:
        said = "an error by name, or read; nothing else found"
        record(14, f"coverage-guided fuzzing of {tried} readers", tried * runs, said)
    return failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]) > 0)
