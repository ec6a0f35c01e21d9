#!/usr/bin/env python3
"""Writes config_fields.json: what transformers' own configuration classes of models with latent attention write by default.

Usage: python config_fields.py, with the transformers of requirements.txt.
"""

import json
import pathlib

from transformers import CONFIG_MAPPING

TYPES = ("axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 dots3_note_text glm4_moe_lite glm5_next_text glm_moe_dsa hy_v4 kimi_linear "
         "longcat_flash minicpm3 mistral4 mistral_large4_text youtu").split()

fields = {model_type: CONFIG_MAPPING[model_type]().to_dict() for model_type in TYPES}
path = pathlib.Path(__file__).parent / "config_fields.json"
path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
