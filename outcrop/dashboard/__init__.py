"""Runs in a browser: a small server that only reads.

server     addresses → pages, and the command that serves them
guard      who may ask, and what a page may load
opened     a run directory, opened for reading
latents    the table of all latents: what is searched, filtered and sorted
curves     how training went, as pictures
"""
