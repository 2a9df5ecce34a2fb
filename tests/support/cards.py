"""A model card as they are on the Hub: comments, several styles of lists, results, widgets, HTML."""

REAL = """\
---
# this block is read by the Hub
language:
- en
- "no"  # Norwegian, and not a boolean
license: other
license_name: community-licence
license_link: >-
  https://example.org/licence
library_name: transformers
pipeline_tag: text-generation
tags:
  - text-generation   # twice on purpose
  - conversational
  - 'llama-3'
base_model: example/base-7b   # what it was tuned from
base_model_relation: finetune
datasets: [example/chat, example/code]
metrics: [accuracy, perplexity]
widget:
- text: "Q: what is `---`?\\nA:"
  example_title: Dashes
extra_gated_prompt: |
  ### Licence

  tags: none of this is metadata
  - pruned

model-index:
- name: example-7b-chat
  results:
  - task:
      type: text-generation
      name: Text Generation
    dataset:
      name: Some Benchmark
      type: example/benchmark
    metrics:
    - type: accuracy
      value: 63.91
      name: accuracy
    source:
      url: https://example.org/board

# the end
co2_eq_emissions:
  emissions: 539
---

<p align="center"><img src="logo.png" alt="---"></p>

```yaml
# not a title
```

# Example 7B Chat

A model. See [the paper](https://example.org/paper).

| benchmark | value |
|---|---|
| some | 63.91 |

---

## Usage

```python
from transformers import pipeline
```
"""
