"""Vendored files match their table."""

import re
from hashlib import sha256

import pytest

from app.presentation.templates import STATIC, static

VENDOR = STATIC / "vendor"


@pytest.mark.parametrize(
    ("folder", "file"), [("plotly", "plotly-basic.min.js"), ("swagger-ui", "swagger-ui-bundle.js")]
)
def test_a_script_is_the_version_and_the_file_that_the_table_states(folder, file):
    script = (VENDOR / folder / file).read_bytes()
    row = next(line for line in (VENDOR / "README.md").read_text().splitlines() if line.startswith(f"| {folder} "))
    version, stated = re.search(r"\| ([\d.]+) \|", row)[1], re.search(r"[0-9a-f]{64}", row)[0]
    assert version.encode() in script
    assert sha256(script).hexdigest() == stated


def test_the_style_sheet_of_swagger_ui_is_the_file_that_the_table_states():
    stated = sha256((VENDOR / "swagger-ui" / "swagger-ui.css").read_bytes()).hexdigest()
    assert stated in (VENDOR / "README.md").read_text()


def test_the_style_sheet_names_the_font_that_the_table_states():
    address = static("vendor/headroom-math/headroom-math.woff2").removeprefix("/static/")
    stated = sha256((VENDOR / "headroom-math" / "headroom-math.woff2").read_bytes()).hexdigest()
    assert f'url("{address}")' in (STATIC / "style.css").read_text()
    assert stated in (VENDOR / "README.md").read_text()


def test_every_vendored_folder_has_its_licence_and_a_row():
    folders = [path for path in VENDOR.iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        licence = (folder / "LICENSE").read_text()
        assert "Permission is hereby granted" in licence or "Apache License" in licence
        assert f"| {folder.name} |" in (VENDOR / "README.md").read_text()
