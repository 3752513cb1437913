"""What a container may not do, seen from within, and where it writes."""

from __future__ import annotations

import re

from containers import serving

WRITE = """
import errno, os, sys
for folder in ("/", "/app", "/opt/venv", "/var/tmp", "/etc"):
    try:
        open(os.path.join(folder, "written"), "w")
    except OSError as error:
        print(folder, errno.errorcode[error.errno])
"""
FILES = "import os; print(*(os.path.join(f, n) for f, _, names in os.walk('/tmp') for n in names))"


def test_it_is_user_10001_without_capabilities_or_new_privileges_under_seccomp(service):
    status = service.python("print(open('/proc/1/status').read())")
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
    assert set(facts["Uid"].split() + facts["Gid"].split()) == {"10001"}
    assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_its_root_file_system_really_cannot_be_written_to(service):
    written = dict(line.split() for line in service.python(WRITE).splitlines())
    assert written == dict.fromkeys(("/", "/app", "/opt/venv", "/var/tmp", "/etc"), "EROFS")


def test_serving_writes_no_file_but_the_choice_of_its_engine(service):
    service.label()
    [kept] = service.python(FILES).split()
    assert re.fullmatch(r"/tmp/\.cache/regnetx-serving/engine-[0-9a-f]+\.json", kept)
    assert service.engine.docker("diff", service.name).split("\n")[0] in ("", "C /tmp")


def test_it_serves_as_any_other_user_as_well(docker, cpu):
    with serving(docker, cpu, "--user=12345:54321") as container:
        assert container.label() == "['seven']"
