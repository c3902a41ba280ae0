"""Latents in words: who is asked, what is asked, and what becomes of the answers.

The language model under study is never seen here, only windows of tokens.
"""
