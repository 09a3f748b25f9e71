"""Getting surveys from public archives: what is needed, in pieces that survive any interruption.

=============  ==========================================================================
module         what
=============  ==========================================================================
`http`         one file or answer from a server that may misbehave
`partial`      what there is of a file, and what of it can be believed
`archive`      where SDSS keeps frames, catalogues and PSF models, DR8 to DR17
`query`        the text of every query
`skyserver`    queries sent, answers checked, page by page
`targets`      which objects are wanted, and lists of them
`sample`       the wanted objects of a request, from a list or from the survey's database
`plan`         how many files, bytes and hours that is
`journal`      what has been done, so that a killed command goes on
`fields`       one field: fetched, cut, put down
`sdss`         all of them, into a survey store
`deposit`      MargNet's published arrays
`command`      the command lines
=============  ==========================================================================
"""
