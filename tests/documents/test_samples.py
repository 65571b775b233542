"""The output that the documents quote."""

from __future__ import annotations

import json
import re
from pathlib import Path

from documents.place import Place, demo_server
from documents.reading import text_of


def shape(text: str) -> str:
    """Return sentences without their dates, times, durations, numbers, hosts and causes."""
    text = re.sub(r"\(no complete response[^)]*\)", "(cause)", text)
    text = re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d UTC \([^)]*\)", "TIME", text)
    text = re.sub(r"by \S+:\d+\.", "by PROCESS.", text)
    text = re.sub(r"\b\d+ failed attempts?", "FAILED", text)
    return re.sub(r"The next attempt is [^.]*\.", "The next attempt is TIME.", text)


def test_the_quoted_status_is_the_one_of_a_lost_response(tmp_path: Path) -> None:
    """The sentences in docs/endpoints.md are those that xots prints in that case."""
    quoted = re.findall(r"^> (.*)$", text_of("docs/endpoints.md"), re.MULTILINE)
    with demo_server() as demo:
        place = Place(tmp_path, demo)
        place.run("xots refresh")
        rule = '{"rule": "refresh:every:lost"}'
        place.run(f"curl -s {demo.xero}/sandbox/faults --json '{rule}'; xots refresh || true")
        printed = json.loads(place.run("curl -s http://127.0.0.1:5001/status"))["explanation"]
    assert shape(" ".join(printed)) == shape(" ".join(quoted))
