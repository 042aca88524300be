"""`python own_code_model.py FOLDER …`: in each folder a tiny model whose classes are in files of it, which leave a mark when they are run.

The mark of `FOLDER` is the file `FOLDER.ran`. Run with `test/engine` on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tiny_models import save_tiny_model

CONFIGURATION = """\
from transformers import LlamaConfig


class ForeignConfig(LlamaConfig):
    model_type = "foreign"
"""

MODULE = """\
from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_foreign import ForeignConfig

Path({mark!r}).touch()


class ForeignForCausalLM(LlamaForCausalLM):
    config_class = ForeignConfig
"""


def main(folder: Path) -> None:
    save_tiny_model("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "configuration_foreign.ForeignConfig", "AutoModelForCausalLM": "modeling_foreign.ForeignForCausalLM"}
    config |= {"model_type": "foreign", "architectures": ["ForeignForCausalLM"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_foreign.py").write_text(CONFIGURATION)
    (folder / "modeling_foreign.py").write_text(MODULE.format(mark=str(folder.with_name(f"{folder.name}.ran"))))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
