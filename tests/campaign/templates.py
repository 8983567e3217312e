"""Tokenizers of the campaign: that of recipes/tiny, with chat templates as models have them."""

import json
import shutil
from pathlib import Path

TOKENIZER = Path(__file__).parents[2] / "recipes" / "tiny" / "tokenizer"
TEMPLATES = {
    "chatml": "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% if m.reasoning_content is defined and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "strict": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content | trim + '\n' }}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '[INST] ' + m.content.strip() + ' [/INST]' if m.role == 'user' else ' ' + m.content.strip() + eos_token }}"
    "{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}\n{% endif %}"
    "{% for d in documents or [] %}{{ d.text }}\n{% endfor %}"
    "{% for m in messages %}{% set c = m.content if m.content is string else (m.content or '') | string %}"
    "{% if m.role == 'assistant' and not loop.last and '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip() %}"
    "{% endif %}[{{ m.role }}{{ ' ' + m.name if m.name is string else '' }}]{{ c }}"
    "{% for t in m.tool_calls or [] %}{{ t.function | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{{ '[assistant]' if add_generation_prompt }}",
    "loops": "{% for m in messages %}{% for k, v in m | dictsort %}{{ k }}={{ v }};{% endfor %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ messages | length }}{% endif %}",
}


def write_tokenizers(folder: Path) -> dict[str, Path]:
    """Writes a tokenizer folder for each template; returns the folders by the template's name."""
    made = {"tiny": TOKENIZER}
    for name, template in TEMPLATES.items():
        made[name] = folder / name
        shutil.copytree(TOKENIZER, made[name])
        config = json.loads((TOKENIZER / "tokenizer_config.json").read_text()) | {"chat_template": template}
        (made[name] / "tokenizer_config.json").write_text(json.dumps(config))
    return made
