"""Writes docs/MODELS.md from the table of architectures; `--check` only says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unflinch.models.families import ARCHITECTURES, Architecture

PAGE = Path(__file__).resolve().parents[1] / "docs" / "MODELS.md"
HEAD = """# Model families

Written by `python tools/make_models_docs.py` from `src/unflinch/models/families.py`; change that instead of this
page.

unflinch needs to know where a model keeps its decoder layers, and through which modules each of these writes into the
residual stream. It takes them from the row of the model's exact `model_type`, layer by layer: the layers of hybrids
differ. A model that sees images is read by the row of its text part, whatever is around it.

**What a patch changes.** In every layer that the scan chose, the linear writer of the feed-forward block. In a layer
of experts this is the expert that all tokens share. Where a layer has neither, it is the writer of attention or of
what stands in its place. With `fit.writers = "all"` it is all of these. Fused experts are tensors, not linear
modules, and each sees a few of the tokens: no patch changes them. Results, report, model card and terminal say which
writers were considered, in how many layers each was changed, and why the others were not.

## The table

| `model_type` | models | a patch may change | it leaves |
|---|---|---|---|
"""
TAIL = """
## How a row is tested

`tests/test_families.py` makes a tiny random model of every row from the family's own config, with every kind of layer
that it can have, and demands that

- nothing but the row's modules writes into the residual stream: with them silent it passes all layers bit-equal;
- logits of prompts that are batched, padded on the left and read behind a shared start equal those of one prompt at a
  time. Recurrent layers (DeltaNet, Mamba, convolutions) are where padding could leak; in none of these rows it does.
  A start is shared only where all layers attend to the whole past;
- batched answers equal greedy decoding without a cache, also when some rows end early;
- with all layers on the disk, fetched while they run (`--spread devices`), states and gradients are bit-equal;
- a fit lowers the scores of a planted refusal, the logits are bit-equal with the patch off and after it, and the
  exported folder does the same in plain PEFT.

That is a test of the code, not of the method: how well a patch does was measured on real weights of `qwen2` (README)
and of one small `llama`, whose run failed (LOG).

## Models without a row

Layers and writers are read off the model: the only list of `num_hidden_layers` modules, and in each part of a layer
the linear module that runs last and is as wide as the residual stream. The model is then run: logits padded and
behind a cache must equal its own, and nothing else may write into the residual stream. What fails is refused with the
names that were seen.

Refused are: models whose writers are no linear modules (GPT-2), that keep their state outside the cache (Mamba alone,
RecurrentGemma), or that have several residual streams (Gemma 3n).

If your model is refused, name its modules yourself:

```
unflinch run MODEL --layers model.layers --writer self_attn.o_proj --writer mlp.down_proj
```

or in the file for `--config`:

```toml
[model]
model = "owner/name"
layers = "model.layers"
writers = ["self_attn.o_proj", "mlp.down_proj"]
```

All linear modules that you name are changed, in the chosen layers that have them. The logits are still checked; that
nothing else writes is not, so directional ablation, which the report compares with, may be weaker than it could be.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    page = HEAD + "".join(map(line, ARCHITECTURES.values())) + TAIL
    if not parser.parse_args().check:
        PAGE.write_text(page, encoding="utf-8")
        print(PAGE)
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        print(f"{PAGE.name} is up to date.")
        return 0
    print(f"{PAGE.name} is out of date; run: python tools/make_models_docs.py")
    return 1


def line(row: Architecture) -> str:
    """Return the line of the table about one family."""
    may = ", ".join(f"`{block.writer}` ({block.kind})" for block in row.blocks if not block.left)
    leaves = "; ".join(f"`{block.writer}`: {block.left}" for block in row.blocks if block.left)
    return f"| `{row.model_type}` | {row.covers} | {may} | {leaves} |\n"


if __name__ == "__main__":
    sys.exit(main())
