"""The demo with its defaults: what three minutes have to achieve."""

import json
import subprocess
import sys

import pytest

QUESTIONS = {
    "How do I parse command line arguments?": ("argparse", "optparse", "getopt"),
    "read and write comma separated values files": ("csv",),
    "compress data with gzip": ("gzip", "zlib"),
    "send an email over SMTP": ("smtplib",),
    "run another program and capture its output": ("subprocess",),
    "generate pseudo-random numbers": ("random",),
    "encode and decode JSON": ("json",),
    "compare two sequences of lines and show the difference": ("difflib",),
    "exact decimal arithmetic": ("decimal", "_pydecimal"),
    "connect to an FTP server and download a file": ("ftplib",),
}


@pytest.mark.slow
def test_three_minutes(tmp_path):
    command = [sys.executable, "-m", "motherbird", "demo", "--json", "--out", str(tmp_path / "m")]
    for question in QUESTIONS:
        command += ["--question", question]
    report = json.loads(subprocess.check_output(command, timeout=600))
    assert report["vocabulary"] >= 4096
    assert report["gain"] >= 1.7
    found = 0
    for search in report["searches"]:
        modules = {hit["source"].split("/")[0].removesuffix(".py") for hit in search["hits"]}
        found += not modules.isdisjoint(QUESTIONS[search["question"]])
    assert found >= 6
