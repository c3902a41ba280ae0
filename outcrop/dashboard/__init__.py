"""Runs in a browser: a small server that only reads, or a folder of files.

server       addresses → pages, and the command that serves them
guard        who may ask, and what a page may load
export       the same pages as files
pages        the pages of a run, as HTML
links        where they stand, on the server or in a folder
opened       a run directory, opened for reading
latents      the table of all latents: what is searched, filtered and sorted
asked        what language models were asked about one latent
portrait     what the cache and the weights say of one latent
curves       how training went, as pictures
spread       how each score is spread over latents, as pictures
dots         scores over firing rates, as a picture
neuronpedia  latents in the forms that Neuronpedia takes
live         which latents fire on a text that a reader types
"""
