"""Finding runs: search attributes, and the filters that speak of them.

`attributes` names what can be filtered by; `values` turns payloads into what is stored; `parsing` reads a filter
(`grammar.lark`) into the tree of `expressions`, which stores carry out.
"""
