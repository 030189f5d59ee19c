"""The guide to variants: what it shows of gsto_torch runs."""

import re
from pathlib import Path

GUIDE = Path(__file__).parents[3] / "docs" / "variants.md"


def test_the_features_of_the_guide_are_compiled() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "gsto_torch" in block)
    exec(compile(block, "variants.md", "exec"), {})
