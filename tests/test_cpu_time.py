"""A run measures the load of other processes, and says so in its result."""

import subprocess
import sys

import pytest

import residual
from residual.runtime import cpu_time
from residual.runtime.cpu_time import CpuMeter

BUSY = "import sys; print(flush=True)\nwhile True: pass"


def burn(seconds):
    """Compute in this process for so many CPU seconds."""
    import time

    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_own_work_and_that_of_others_are_told_apart():
    meter = CpuMeter()
    burn(0.5)
    assert meter.read().own == pytest.approx(0.5, abs=0.2)
    other = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        before = meter.read().others
        burn(1.0)
        assert meter.read().others - before > 0.3
    finally:
        other.kill()
        other.communicate()


def test_a_result_tells_whether_others_took_part_of_the_machine(tmp_path, monkeypatch):
    readings = iter([(0.0, 0.0, 0.0)] * 1 + [(10.0, 5.0, 5.0 + 10.0)] * 99)
    monkeypatch.setattr(CpuMeter, "_now", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(cpu_time.psutil, "cpu_count", lambda: 4)
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 2, "curve": "none"})
    figures = residual.train(recipe, output=tmp_path / "run").figures
    assert figures["cpu_seconds"] == 5
    assert figures["others_share"] == 0.25
    assert figures["disturbed"] is True
