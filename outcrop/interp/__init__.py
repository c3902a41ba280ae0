"""Latents in words: who is asked, what is asked, and what becomes of the answers.

explain.py and score.py put together what the rooms hold: `clients` (who is asked), `explainers`, `scorers`.
The language model under study is never seen here, only windows of tokens.
"""
