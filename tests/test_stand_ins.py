"""The stand-ins as a program of their own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dspy
import pytest

import spanhook

STAND_INS = Path(__file__).with_name("stand_ins.py")


def test_they_print_how_to_reach_them_and_what_arrives(tmp_path):
    """The configuration that they print works as it is, and each record that a program sends is a line."""
    pytest.importorskip("opik")
    pytest.importorskip("raindrop")
    command = [sys.executable, STAND_INS, "--lm-port=0", "--raindrop-port=0", "--opik-port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            config = tmp_path / "tracing.toml"
            for line in running.stdout:
                with config.open("a") as file:
                    file.write(line)
                if "api_base" in line:
                    break
            where = dict(re.findall(r'(api_base|api_key)="(.*?)"', line))
            with dspy.context(lm=dspy.LM("openai/test-model", cache=False, **where)):
                tracer = spanhook.configure(config)
                dspy.Predict("question -> answer")(question="Why?")
                assert tracer.flush(30.0), tracer.stats()
            arrived = set()
            while not arrived >= {"raindrop.event", "raindrop.span", "opik.trace", "opik.span"}:
                arrived.update(json.loads(running.stdout.readline()))
            assert not {name for name in arrived if "refusal" in name}
        finally:
            running.terminate()
