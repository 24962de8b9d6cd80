"""Language models: backbones, tasks and templates, item codes, decoding along a trie."""
